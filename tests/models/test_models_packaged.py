"""Weights in the package: small, whole, with a card that states what the committed results say."""

import json
import re
from pathlib import Path

import pytest
import torch

import ghostnet
from ghostnet import cli, data, models
from ghostnet.train import evaluate

FOLDER = Path(models.__file__).parent / "weights"
RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted(FOLDER.glob("*.safetensors"))


def card(path):
    return path.with_suffix(".md").read_text(encoding="utf-8")


def accuracy_of(path):
    return float(re.search(r"\*\*Accuracy\*\*: ([\d.]+) % top-1", card(path)).group(1))


def test_there_is_a_trained_network():
    assert "resnet9_050.cifar10.safetensors" in [path.name for path in FILES]
    assert models.model_info("resnet9_050").weights == ("cifar10", "ghost")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_packaged_weights_are_small_and_described(path):
    assert path.stat().st_size <= 4_000_000
    name, tag, _ = path.name.split(".")
    network = ghostnet.load(f"{name}.{tag}")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    recipe = re.search(r"recipe `(\w+)`", card(path)).group(1)
    seed = re.search(r"seed (\d+)", card(path)).group(1)
    named = re.search(r"record `([\w-]+)`", card(path))  # of a run whose settings the recipe has no longer
    record = named.group(1) if named else f"{recipe}-seed{seed}"
    found = list(RESULTS.glob(f"*/{record}.json"))
    assert len(found) == 1
    metrics = json.loads(found[0].read_text(encoding="utf-8"))["metrics"]
    assert accuracy_of(path) == pytest.approx(
        metrics["top1"], abs=0.1
    )  # half precision may move an image or two
    assert f"{metrics['macs']:,} MACs" in card(path)


def test_a_converted_network_is_loaded_by_model_and_tag(capsys):
    network = ghostnet.load("resnet9_050.ghost")
    assert network.ghostnet_edits
    assert ghostnet.profile(network, (3, 32, 32)).macs == 47_360_704
    with pytest.raises(ghostnet.InputError, match=r"in Python ghostnet\.load\('resnet9_050\.ghost'\)"):
        ghostnet.create_model("resnet9_050", weights="ghost")
    with pytest.raises(ghostnet.InputError, match=r"resnet9_050\.ghast"):
        ghostnet.load("resnet9_050.ghast")
    assert cli.run(["profile", "resnet9_050.ghost", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 47_360_704
    assert cli.run(["eval", "resnet9_050.ghost", "--weights", "cifar10"]) == 2
    assert "holds its weights already" in capsys.readouterr().err


def test_a_converted_network_is_no_weights_of_the_dense_one():
    with pytest.raises(ghostnet.InputError, match=r"needs no name: give 'resnet56\.ghost' itself"):
        ghostnet.create_model("resnet56", weights="ghost")


def test_a_converted_network_is_not_what_the_dense_ones_name_loads(capsys):
    assert cli.run(["profile", "resnet56", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 125_485_696
    arguments = "bench resnet56@plain --runtime onnx --seconds 0.1 --cold-starts 0 --json"
    assert cli.run(arguments.split()) == 0
    assert models.model_info("resnet56").weights == ("ghost",)
    assert ghostnet.load("resnet56.ghost").ghostnet_edits
    dense = ghostnet.load("resnet56")
    assert not getattr(dense, "ghostnet_edits", [])
    assert ghostnet.profile(dense, (3, 32, 32)).macs == 125_485_696


def test_the_trained_network_keeps_its_accuracy_on_the_first_thousand_test_images():
    """All 10,000 take `ghostnet eval`; CIFAR-10 comes from the cache only, so that tests need no network."""
    try:
        dataset = data.load_cifar10(source="local", progress=False)
    except OSError:
        pytest.skip("CIFAR-10 is not in the cache; `ghostnet data cifar10` fetches it")
    network = ghostnet.load("resnet9_050")
    info = network.ghostnet_info
    batches = data.TensorBatches(
        dataset.test_images[:1000], dataset.test_labels[:1000], 250, mean=info["mean"], std=info["std"]
    )
    assert evaluate(network, batches).top1 > 90
