"""Recipes as data: every packaged one loads; what is wrong in one is said in one line."""

import pytest

from ghostnet import InputError
from ghostnet.models import list_models
from ghostnet.recipes import list_recipes, load_recipe


def test_every_packaged_recipe_loads_and_names_a_model():
    names = list_recipes()
    assert len(names) >= 4
    for name in names:
        recipe = load_recipe(name)
        assert recipe.name == name
        if recipe.data == "cifar10":
            assert recipe.model in list_models()


def test_overrides_win_and_keep_their_types():
    recipe = load_recipe(
        "resnet9_050", ["epochs=3", "bf16=false", "weights=some/file.safetensors", "exhibit=mine"]
    )
    assert (recipe.epochs, recipe.bf16, recipe.weights, recipe.exhibit) == (
        3.0,
        False,
        "some/file.safetensors",
        "mine",
    )


def test_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "resnet20"\nepochs = 0.5\n')
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.settings().epochs) == ("mine", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "resnet20"\nepochz = 1', "unknown key .* 'epochz'; did you mean 'epochs'"),
        ('model = "resnet20"\nepochs = "many"', r"`epochs` \(='many'\)"),
        ('model = "resnet20"\nepochs = -1', r"`epochs` \(=-1.0\)"),
        ('model = "resnet20"\nbatch_size = 0', r"`batch_size` \(=0\)"),
        ('model = "resnet20"\nepochs = 1e308', r"`epochs` \(=1e\+308\) must be at most 1,000,000,000"),
        (
            'model = "resnet20"\ngradient_clip = inf',
            r"`gradient_clip` \(=inf\): Input should be a finite number",
        ),
        ('model = "resnet20"\nseed = 9223372036854775808', r"`seed` \(=9223372036854775808\)"),
        ("epochs = 1", "`model`"),
        ("model = ", "not valid TOML"),
    ],
)
def test_bad_recipe(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def test_unknown_recipe_and_missing_file(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'resnet9_05'; did you mean 'resnet9_050'"):
        load_recipe("resnet9_05")
    with pytest.raises(InputError, match="there is no recipe file"):
        load_recipe(str(tmp_path / "nowhere.toml"))
    with pytest.raises(InputError, match="key=value"):
        load_recipe("resnet9_050", ["epochs"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["macs=0.5"], r"`macs` \(=0.5\) is for a pruning method or allocation = \"measured\"; leave it out"),
        (["method=ghost", "macs=0.4"], "`macs`"),
        (["convert_ratio=2", "macs=0.4"], "`macs`"),
        (["streams=true"], "`streams` .* is for a conversion that starts from the dense weights"),
        (
            ["streams=true", "convert_ratio=2", "convert_init=random"],
            "`streams` .* starts from the dense weights",
        ),
        (["method=l1", "convert_ratio=2"], '`convert_ratio` .* is for method = "ghost"'),
        (["method=l1", "allocation=measured"], "`allocation`"),
        (["method=l1", "cheap_kernel_size=5"], "`cheap_kernel_size` .* conversion to Ghost"),
        (["cheap_kernel_size=5"], "`cheap_kernel_size`"),
        (["convert_init=random"], "`convert_init`"),
        (["method=l1", "sparsity_epochs=1"], '`sparsity_epochs` .* method = "sss"'),
        (["sparsity_learning_rate=1"], "`sparsity_learning_rate`"),
        (["teacher_weights=akamaster"], "`teacher_weights` .* that is a name"),
        (["convert_ratio=2", "teacher=dense", "teacher_weights=akamaster"], "`teacher_weights`"),
        (["temperature=2"], "`temperature` .* is for a `teacher`"),
        (["distillation_weight=0.5"], "`distillation_weight`"),
        (['feature_layers=["layer1.0"]'], "`feature_layers`"),
        (["milestones=[0.5]"], r'`milestones` \(=\(0.5,\)\) is for schedule = "step"; leave it out'),
        (["image_size=64"], r"`image_size` \(=64\) is for images of your own; leave it out"),
        (["crop_fraction=0.5"], "`crop_fraction`"),
        (["interpolation=bicubic"], "`interpolation`"),
        (["augmentation=padded_crop"], "`augmentation`"),
        (["crop_scale=[0.5, 1]"], "`crop_scale`"),
        (["held_out_fraction=0.3"], "`held_out_fraction`"),
        (["workers=2"], "`workers`"),
    ],
)
def test_keys_that_nothing_reads_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load_recipe("resnet9_050", changes)
    path = tmp_path / "mine.toml"
    quoted = [
        key + " = " + (text if text[0] in "0123456789[" else repr(text)) for key, text in _pairs(changes)
    ]
    path.write_text("\n".join(['model = "resnet20"', *quoted]))
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def _pairs(changes):
    return [change.split("=", 1) for change in changes]


def test_overrides_may_switch_off_what_a_recipes_keys_are_for():
    assert load_recipe("convert_resnet20", ["teacher="]).temperature == 4.0
    assert load_recipe("ghost_resnet56_published", ["convert_ratio=1", "teacher=resnet56"]).converts is False
    assert load_recipe("vgg16_l1", ["method=ghost", "convert_ratio=2"]).converts
    assert load_recipe("resnet9_050", ["temperature=2"], taught=True).temperature == 2.0
    assert load_recipe("vgg16", ["schedule=cosine"]).milestones == (0.5, 0.75)
    with pytest.raises(InputError, match="`temperature`"):
        load_recipe("convert_resnet20", ["teacher=", "temperature=2"])
    with pytest.raises(
        InputError, match=r'`schedule` \(="step"\) lowers the rate at `milestones`, and there are none'
    ):
        load_recipe("resnet9_050", ["schedule=step"])
    with pytest.raises(InputError, match="unknown schedule 'steps'"):
        load_recipe("resnet9_050", ["schedule=steps"])
