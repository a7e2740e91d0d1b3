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
