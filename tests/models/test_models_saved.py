"""Saved networks: bit-exact round trips, refusal of what is not whole or not ours, nothing lost on failure."""

import json
import pickle
import resource
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

import ghostnet
from ghostnet import cli
from ghostnet.models.origin import _without_weights, build_torchvision, origin_of
from ghostnet.nn import GhostConv2d
from ghostnet.nn.edits import apply_edits_


def randomised(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.eval()


def assert_same(left, right):
    first, second = left.state_dict(), right.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_zoo_network_round_trips_bit_exactly(tmp_path):
    model = randomised(ghostnet.create_model("ghost_resnet20", ratio=3, num_classes=4))
    ghostnet.save(model, tmp_path / "a.safetensors", info={"top1": 12.5})
    loaded = ghostnet.load(tmp_path / "a.safetensors")
    assert_same(model, loaded)
    assert loaded.ghostnet_info == {"top1": 12.5}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), loaded(images))


def test_half_precision_halves_the_file(tmp_path):
    model = randomised(ghostnet.create_model("resnet20"))
    ghostnet.save(model, tmp_path / "full.safetensors")
    ghostnet.save(model, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("full.safetensors", "half.safetensors")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = ghostnet.load(tmp_path / "half.safetensors")
    assert loaded.linear.weight.dtype == torch.float32
    assert torch.allclose(loaded.linear.weight, model.linear.weight, rtol=1e-3)


def test_edits_are_replayed(tmp_path):
    model = ghostnet.create_model("resnet20")
    ghost = GhostConv2d(16, 16, 3, padding=1, bias=False)
    ghost.set_channel_order_(torch.randperm(16))
    model.ghostnet_edits = [{"path": "layer1.0.conv1", "kind": "ghost_conv2d", "config": ghost.config()}]
    apply_edits_(model, model.ghostnet_edits)
    model.layer1[0].conv1.set_channel_order_(torch.randperm(16))
    ghostnet.save(randomised(model), tmp_path / "a.safetensors")
    assert_same(model, ghostnet.load(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf"])  # RegNet computes its widths with tensors
def test_torchvision_network_is_rebuilt(tmp_path, name):
    model = randomised(torchvision.models.get_model(name, num_classes=5))
    ghostnet.save(model, tmp_path / "a.safetensors")
    assert_same(model, ghostnet.load(tmp_path / "a.safetensors"))
    ghost, _ = ghostnet.ghostify(model, layers=["*1*"], init="random")
    ghostnet.save(randomised(ghost), tmp_path / "b.safetensors")
    assert_same(ghost, ghostnet.load(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_128gf"])  # 2.6 GB of weights, to be compared by shape
def test_a_builder_is_tried_without_memory_for_weights(name):
    made = _without_weights(lambda: build_torchvision(name, {}))
    assert all(parameter.is_meta for parameter in made.parameters() if parameter.dim() > 1)


class OwnNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images).mean((2, 3))


def test_own_network_needs_a_fresh_one(tmp_path):
    model = randomised(OwnNetwork())
    ghostnet.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match=r"pass a fresh one"):
        ghostnet.load(tmp_path / "a.safetensors")
    assert_same(model, ghostnet.load(tmp_path / "a.safetensors", model=OwnNetwork()))


def test_what_optimize_made_says_that_a_fresh_one_must_be_rewritten_too(tmp_path):
    model = ghostnet.create_model("ghostnet_050", num_classes=3).eval()
    rewritten = ghostnet.deploy.optimize(model, input_size=(3, 64, 64))
    ghostnet.save(rewritten, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match=r"rewritten as a graph, as deploy\.optimize does"):
        ghostnet.load(tmp_path / "a.safetensors")
    again = ghostnet.deploy.optimize(
        ghostnet.create_model("ghostnet_050", num_classes=3).eval(), input_size=(3, 64, 64)
    )
    assert_same(rewritten, ghostnet.load(tmp_path / "a.safetensors", model=again))


def _without_first_pool(model):
    model.maxpool = nn.Identity()  # what people do for small images; no tensor tells of it


def _first_stride_of_one(model):
    model.conv1.stride = (1, 1)


def _another_forward(model):
    model.forward = lambda images: images.mean((2, 3))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("change_", "told"),
    [
        (_without_first_pool, r"maxpool is Identity instead of MaxPool2d"),
        (_first_stride_of_one, r"conv1\.stride is \(1, 1\) instead of \(2, 2\)"),
        (_another_forward, r"forward was replaced"),
    ],
)
def test_network_changed_by_hand_is_not_loaded_as_the_builder_makes_it(tmp_path, library, change_, told):
    def fresh():
        builders = {"torchvision": torchvision.models.get_model, "timm": timm.create_model}
        model = builders[library]("resnet18", num_classes=4)
        change_(model)
        return model

    model = randomised(fresh())
    ghostnet.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match=rf"was changed \({told}\); pass a fresh one"):
        ghostnet.load(tmp_path / "a.safetensors")
    images = torch.randn(1, 3, 32, 32)
    again = ghostnet.load(tmp_path / "a.safetensors", model=fresh())
    assert torch.equal(again(images), model(images))


def test_network_of_the_zoo_with_another_head_by_hand(tmp_path):
    model = ghostnet.create_model("resnet20")
    model.linear = nn.Linear(64, 3)
    ghostnet.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match=r"was changed \(linear\.out_features is 3 instead of 10\)"):
        ghostnet.load(tmp_path / "a.safetensors")


def test_settings_of_training_do_not_make_another_network(tmp_path):
    model = ghostnet.create_model("ghostnet_050")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    model.note = "mine"
    ghostnet.save(model, tmp_path / "a.safetensors")
    assert_same(model, ghostnet.load(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "ghostnetv2_100"])
def test_timm_network_of_gray_images_is_rebuilt(tmp_path, name):
    model = randomised(timm.create_model(name, num_classes=3, in_chans=1))
    ghostnet.save(model, tmp_path / "a.safetensors")
    loaded = ghostnet.load(tmp_path / "a.safetensors")
    assert_same(model, loaded)
    images = torch.randn(1, 1, 64, 64)
    assert torch.equal(model(images), loaded(images))


def test_saving_leaves_the_random_state_alone(tmp_path):
    model = ghostnet.create_model("resnet20")
    before = torch.get_rng_state()
    ghostnet.save(model, tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_does_not_wait_for_the_compiler(tmp_path):
    code = (
        "import sys, ghostnet; ghostnet.save(ghostnet.create_model('ghostnet_050'), sys.argv[1]); "
        "print('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_every_network_of_the_zoo_is_known_again():
    names = ghostnet.list_models()
    assert len(names) > 40
    for name in names:
        model = ghostnet.create_model(name)
        assert origin_of(model) == (model.ghostnet_origin, None)


def test_truncated_file(tmp_path):
    path = tmp_path / "a.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ghostnet.InputError, match=r"not a whole safetensors file"):
        ghostnet.load(path)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickle_is_refused(tmp_path, writer):
    path = tmp_path / "a.safetensors"
    writer({"weight": 1}, path)
    with pytest.raises(ghostnet.InputError, match=r"is a pickle, which could run code"):
        ghostnet.load(path)


def test_file_of_another_writer(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match=r"not written by ghostnet.save"):
        ghostnet.load(tmp_path / "a.safetensors")


def test_missing_file_and_name():
    with pytest.raises(ghostnet.InputError, match=r"no file nowhere"):
        ghostnet.load("nowhere")


def test_weights_of_another_network(tmp_path):
    ghostnet.save(ghostnet.create_model("resnet20", num_classes=3), tmp_path / "a.safetensors")
    with pytest.raises(
        ghostnet.InputError, match=r"is for 3 classes and the network has 10; give num_classes=3, or new_head"
    ):
        ghostnet.create_model("resnet20", weights=tmp_path / "a.safetensors")


def test_unknown_tag():
    with pytest.raises(ghostnet.InputError, match=r"no packaged weights"):
        ghostnet.create_model("vgg16", weights="imagenet")


def test_broken_weights_are_not_saved(tmp_path):
    model = ghostnet.create_model("resnet20")
    model.linear.weight.data[0, 0] = float("nan")
    with pytest.raises(ghostnet.InputError, match=r"linear.weight holds NaN"):
        ghostnet.save(model, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_file(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    ghostnet.save(ghostnet.create_model("resnet20"), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (200_000, hard)
    )  # the kernel refuses the write, as a full disk does
    try:
        with pytest.raises(ghostnet.InputError, match=r"no room to write .*a\.safetensors .*free some space"):
            ghostnet.save(ghostnet.create_model("resnet20"), path)
        arguments = ["convert", "resnet20", "--init", "random", "-o", str(path), "--force"]
        assert cli.run(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert "no room to write" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_no_overwrite_unless_asked(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("mine")
    with pytest.raises(ghostnet.InputError, match=r"pass --force"):
        ghostnet.save(ghostnet.create_model("resnet20"), path, force=False)
    assert path.read_text() == "mine"


def test_checkpoint_with_prefix_and_without_counters(tmp_path):
    model = randomised(ghostnet.create_model("resnet20"))
    state = {f"module.{k}": v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "a.th")
    loaded = ghostnet.create_model("resnet20", weights=tmp_path / "a.th")
    assert torch.equal(loaded.linear.weight, model.linear.weight)


class Malicious:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_checkpoint_with_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Malicious()}, tmp_path / "a.pth")
    with pytest.raises(ghostnet.InputError, match=r"cannot be read as plain weights"):
        ghostnet.create_model("resnet20", weights=tmp_path / "a.pth")
    assert capsys.readouterr().out == ""


def _file_that_says(path, header):
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, metadata={"ghostnet": header})
    return path


def _of(library, name, **args):
    origin = {"library": library, "name": name, "args": args}
    return json.dumps({"schema": 1, "origin": origin, "edits": [], "info": {}})


@pytest.mark.parametrize(
    "header",
    [
        _of("ghostnet", "resnet20", weights="http://127.0.0.1:9/weights.pth"),
        _of("ghostnet", "resnet20", weights="cifar10", new_head=True),
        _of("torchvision", "resnet18", weights="DEFAULT"),
        _of("torchvision", "resnet18", weights_backbone="DEFAULT"),
        _of("timm", "resnet18", checkpoint_path="weights.pth"),
        _of("timm", "resnet18", pretrained_cfg_overlay={"url": "http://127.0.0.1:9/weights.pth"}),
        _of("timm", "resnet18", num_classes={"url": "x"}),
    ],
)
def test_a_file_cannot_make_others_be_read_or_fetched(tmp_path, monkeypatch, header):
    def opened(*_args, **_kwargs):
        raise AssertionError("something was read or fetched")

    for place in (
        "timm.create_model",
        "ghostnet.models.weights.open_weights",
        "torch.hub.load_state_dict_from_url",
    ):
        monkeypatch.setattr(place, opened)
    with pytest.raises(ghostnet.InputError, match="an argument that no saved network has"):
        ghostnet.load(_file_that_says(tmp_path / "crafted.safetensors", header))


@pytest.mark.parametrize(
    "name", ["hf-hub:someone/something", "local-dir:/tmp", "resnet18.a1_in1k/../x", "nothing"]
)
def test_a_name_of_timm_is_no_address(tmp_path, monkeypatch, name):
    monkeypatch.setattr(timm, "create_model", lambda *_args, **_kwargs: pytest.fail("it was built"))
    with pytest.raises(ghostnet.InputError, match="timm has no model"):
        ghostnet.load(_file_that_says(tmp_path / "crafted.safetensors", _of("timm", name)))


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("{", "record"),
        ("[]", "record"),
        ("[" * 100_000, "record"),
        ('{"schema": 1}', "edits"),
        ('{"schema": 1, "origin": null, "edits": {}, "info": {}}', "edits"),
        ('{"schema": 1, "origin": null, "edits": [], "info": []}', "info"),
        ('{"schema": 1, "origin": 3, "edits": [], "info": {}}', "origin"),
        (
            '{"schema": 1, "origin": {"library": "timm", "name": "resnet18"}, "edits": [], "info": {}}',
            "origin's args",
        ),
        (
            '{"schema": 1, "origin": {"library": "timm", "args": {}}, "edits": [], "info": {}}',
            "origin's name",
        ),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, header, part):
    with pytest.raises(ghostnet.InputError, match=f"has a damaged header: its {part} is") as raised:
        ghostnet.load(_file_that_says(tmp_path / "crafted.safetensors", header))
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 400


def test_arguments_of_the_wrong_type_are_one_line(tmp_path):
    path = _file_that_says(
        tmp_path / "crafted.safetensors", _of("torchvision", "resnet18", num_classes="ten")
    )
    with pytest.raises(ghostnet.InputError, match="holds a network that torchvision cannot build"):
        ghostnet.load(path)


def test_a_part_of_a_converted_network_is_saved_and_loaded(tmp_path):
    def parts():
        return nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))})

    class Trainer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = parts()

        def forward(self, x):
            return self.inner["net"](x)

    ghost, _ = ghostnet.ghostify(Trainer(), init="random")
    part = ghost.eval().inner["net"]
    ghostnet.save(part, tmp_path / "part.safetensors")
    again = ghostnet.load(tmp_path / "part.safetensors", model=parts()["net"])
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(images), part(images))
    ghostnet.save(again[2:], tmp_path / "last.safetensors")  # and a part of what was loaded
    last = ghostnet.load(tmp_path / "last.safetensors", model=parts()["net"][2:])
    assert torch.equal(last(again[:2](images)), part(images))


def test_hooks_that_were_added_are_noticed(tmp_path):
    model = torchvision.models.resnet18()
    model.register_forward_pre_hook(lambda _module, args: (args[0] - 0.5,))
    ghostnet.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ghostnet.InputError, match="forward hooks were added or removed"):
        ghostnet.load(tmp_path / "a.safetensors")


def test_a_folder_of_the_same_name_does_not_hide_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet9_050").mkdir()
    assert ghostnet.load("resnet9_050").ghostnet_info["classes"]
