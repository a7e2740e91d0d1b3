"""Networks of one's own code by name: what is run, what it is given, and what is said where it fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostnet
from ghostnet.errors import InputError
from ghostnet.models import create_outside, outside_of

_CODE = """
import torch
from torch import nn
from {helper} import WIDTH

print("this is no answer of a command's")


class Net(nn.Module):
    def __init__(self, num_classes=5, *, width=WIDTH):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


class Holder:
    build = Net


ready = Net(2)
number = 3


def broken():
    return torch.zeros(3) @ torch.zeros(4)


def nothing():
    return "a network"


def stops():
    raise SystemExit(2)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """A file with code, and a module beside it that it imports; names are of this test alone."""
    stem = f"nets_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{stem}_helper.py").write_text("WIDTH = 8\n")
    (tmp_path / f"{stem}.py").write_text(_CODE.format(helper=f"{stem}_helper"))
    yield str(tmp_path / f"{stem}.py")
    for name in [name for name in sys.modules if name.startswith(stem)]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


@pytest.mark.parametrize(
    ("name", "builder", "weights", "library"),
    [
        ("nets.py:Net", "nets.py:Net", None, None),
        ("a/nets.py:Net=b/mine.pth", "a/nets.py:Net", "b/mine.pth", None),
        ("nets.py:Net(5, depth=18)=mine.pth", "nets.py:Net(5, depth=18)", "mine.pth", None),
        ("nets.py:Net(text=')=(')=x=y.pth", "nets.py:Net(text=')=(')", "x=y.pth", None),
        ("package.module:Net.small()", "package.module:Net.small()", None, None),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k", None, "timm"),
        ("torchvision:resnet18=mine.pth", "torchvision:resnet18", "mine.pth", "torchvision"),
    ],
)
def test_names_are_taken_apart(name: str, builder: str, weights: str | None, library: str | None) -> None:
    found = outside_of(name)
    assert found is not None
    assert (found.builder, found.weights, found.library) == (builder, weights, library)


@pytest.mark.parametrize(
    "text",
    [
        "resnet56",
        "ghost.safetensors",
        "https://host/x.pth",
        "hf:owner/name",
        "C:/x.onnx",
        "a.py:Net@plain",
        "",
    ],
)
def test_other_texts_are_no_names_from_outside(text: str) -> None:
    assert outside_of(text) is None


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outside_of("odd:name") is not None
    Path("odd:name").write_bytes(b"")
    assert outside_of("odd:name") is None


def test_code_is_run_with_its_arguments_and_its_neighbours(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = create_outside(f"{place}:Net(3, width=4)")
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert network.body[0].out_channels == 4
    assert not network.training
    assert type(create_outside(f"{place}:Net")) is type(network)  # the file was run once
    assert create_outside(f"{place}:Holder.build(7)").head.out_features == 7
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("no answer") == 1
    assert sys.path[0] != str(
        Path(place).parent
    )  # its folder does not stand before installed packages any longer


def test_a_module_is_found_where_one_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(place).parent)
    assert create_outside(f"{Path(place).stem}:Net").head.out_features == 5
    assert create_outside("torch.nn:Conv2d(3, 8, kernel_size=1)").out_channels == 8


def test_a_network_that_a_module_holds_is_copied(place: str) -> None:
    first, second = create_outside(f"{place}:ready"), create_outside(f"{place}:ready")
    assert first is not second
    torch.testing.assert_close(first.head.weight, second.head.weight)


def test_a_file_does_not_take_the_place_of_a_package(tmp_path: Path) -> None:
    import timm

    path = tmp_path / "timm.py"
    path.write_text("from torch import nn\nnet = nn.Conv2d(3, 4, 1)\n")
    assert create_outside(f"{path}:net").out_channels == 4
    assert sys.modules["timm"] is timm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{place}:Nett", "unknown name in {place} 'Nett'; did you mean 'Net'?"),
        (
            "{place}:Net(depth=3)",
            "{place}:Net takes (num_classes, width): got an unexpected keyword argument 'depth'",
        ),
        ("{place}:broken", "{file}, line 28: RuntimeError: "),
        ("{place}:nothing", "{place}:nothing gives a str, not a network (torch.nn.Module)"),
        ("{place}:number", "{place}:number is an int; name a class or function that gives a network"),
        ("{place}:ready()", "ready in {place} is a network already; leave out the parentheses"),
        ("{place}:stops", "{file}, line 36 ends the program"),
        ("{place}:Net(open('x'))", "arguments must be plain values, such as 5, 'same', True or (1, 2)"),
        ("{place}:Net(**{{'width': 4}})", "arguments must be plain values"),
        ("{place}:Net({{[]: 1}})", "arguments must be plain values"),
        ("{place}:Net(", "the arguments in parentheses are no Python"),
        ("{place}:Net(3)4", "must be {place}:Net(3) or {place}:Net(3)=FILE"),
        ("{place}:Net=", "must be {place}:Net or {place}:Net=FILE"),
        ("{place}x.py:Net", "there is no file {place}x.py"),
        (
            "no_such_package.nets:Net",
            "there is no module no_such_package, here or where Python looks for packages",
        ),
    ],
)
def test_code_that_cannot_be_used_is_said_in_a_line(place: str, name: str, message: str) -> None:
    words = {"place": place, "file": Path(place).name}
    with pytest.raises(InputError) as raised:
        create_outside(name.format(**words))
    assert message.format(**words) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (1\n", "bad_code.py, line 1: SyntaxError: '(' was never closed"),
        (
            "import torch\nfrom torch import no_such_thing\n",
            "bad_code.py, line 2: ImportError: cannot import name",
        ),
        ("from .sibling import x\n", "name its package: package.module:NAME"),
        ("import no_such_package\n", "bad_code.py, line 1: No module named 'no_such_package'"),
    ],
)
def test_files_that_do_not_run_are_named_with_the_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "bad_code.py").write_text(code)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(InputError) as raised:
            create_outside(f"{tmp_path}/bad_code.py:Net")
        assert message in str(raised.value)
        assert str(raised.value).count(", line ") == 1
    assert "bad_code" not in sys.modules


def test_weights_of_checkpoints_and_of_saved_networks(place: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = create_outside(f"{place}:Net")
    images = torch.randn(2, 3, 8, 8)
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    again = create_outside(f"{place}:Net={tmp_path}/dense.pth")
    torch.testing.assert_close(again(images), dense(images))
    ghost, _ = ghostnet.ghostify(dense, layers=["body.2"])
    ghostnet.save(ghost, tmp_path / "ghost.safetensors", info={"built_by": f"{place}:Net"})
    torch.testing.assert_close(
        create_outside(f"{place}:Net", tmp_path / "ghost.safetensors")(images), ghost.eval()(images)
    )
    with pytest.raises(InputError, match="names its weights already"):
        create_outside(f"{place}:Net={tmp_path}/dense.pth", tmp_path / "dense.pth")
    with pytest.raises(InputError, match=r"head.bias is \(5,\) in .*dense.pth and \(3,\) in the network"):
        create_outside(f"{place}:Net(3)={tmp_path}/dense.pth")
    other = create_outside(f"{place}:Net(3)", tmp_path / "dense.pth", new_head=True)
    torch.testing.assert_close(other.body[0].weight, dense.body[0].weight)


def test_a_saved_network_says_what_built_it_and_does_not_run_it(place: str, tmp_path: Path) -> None:
    dense = create_outside(f"{place}:Net")
    path = tmp_path / "own.safetensors"
    ghostnet.save(dense, path, info={"built_by": "nothing_of_the_kind.py:Net"})
    with pytest.raises(InputError) as raised:
        ghostnet.load(path)
    assert f"name what builds it: 'nothing_of_the_kind.py:Net={path}'" in str(raised.value)
    ghostnet.save(dense, path, info={"built_by": 3})
    with pytest.raises(InputError, match=r"FILE\.py:NAME="):
        ghostnet.load(path)
    with pytest.raises(InputError):
        ghostnet.create_model(f"{place}:Net")  # a file's origin reaches that door


def test_a_file_that_needs_no_code_is_not_taken_for_one(place: str, tmp_path: Path) -> None:
    ghostnet.save(ghostnet.create_model("resnet20"), tmp_path / "zoo.safetensors")
    with pytest.raises(InputError, match="says by itself how to build its network; give the file without"):
        create_outside(f"{place}:Net={tmp_path}/zoo.safetensors")


def test_a_network_of_a_library_knows_where_it_is_from(tmp_path: Path) -> None:
    network = create_outside("timm:mobilenetv3_small_050")
    assert network.ghostnet_origin["name"] == "mobilenetv3_small_050"
    ghostnet.save(network, tmp_path / "small.safetensors", info={"classes": ["a"]})
    again = create_outside(f"timm:mobilenetv3_small_050={tmp_path}/small.safetensors")
    assert again.ghostnet_info == {"classes": ["a"]}
    assert isinstance(network, nn.Module)
