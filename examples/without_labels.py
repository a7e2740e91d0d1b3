"""A network converted and taught without any label, and what is gained: CIFAR-10's training images as plain files.

    python examples/without_labels.py resnet9_050 10000 8 without_labels.json

Arguments: the dense network, how many training images it may look at, epochs, and the record to write. It is converted
with 2,048 of them and taught by the dense one on all; the test images' labels only measure. On a folder of your own the
same is `ghostnet convert --calibration FOLDER` and `ghostnet train --data FOLDER --teacher DENSE --unlabelled`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

import ghostnet
from ghostnet import data
from ghostnet.recipes import fine_tune_recipe, run_recipe, write_record

_CALIBRATION = 2048
_SETTINGS = ("batch_size=128", "learning_rate=0.1", "held_out_fraction=0.1")


def taught(ghost: nn.Module, dense: nn.Module, folder: Path, epochs: float) -> nn.Module:
    """Return a converted network after training on the folder's images, with the dense one's answers alone."""
    start, teacher = folder.parent / "ghost.safetensors", folder.parent / "dense.safetensors"
    ghostnet.save(ghost, start)
    ghostnet.save(dense, teacher)
    changes = [*_SETTINGS, f"epochs={epochs}", "evaluate_every=0"]
    recipe = fine_tune_recipe(
        str(folder), model=None, weights=str(start), teacher=str(teacher), unlabelled=True, overrides=changes
    )
    run_recipe(recipe, folder.parent)
    return ghostnet.load(folder.parent / f"{recipe.name}-seed{recipe.seed}.safetensors")


def measured(dense: nn.Module, count: int, epochs: float) -> dict[str, Any]:
    """Convert and teach; return the accuracies on the test images, and what the converted network costs."""
    images = data.load_cifar10(None)
    normal: dict[str, Any] = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}
    test = data.TensorBatches(images.test_images, images.test_labels, 500, **normal)
    few = min(count, _CALIBRATION)
    looked_at = data.TensorBatches(
        images.train_images[:few], images.train_labels[:few], min(few, 256), **normal
    )
    ghost, report = ghostnet.ghostify(dense, calibration=[pixels for pixels, _ in looked_at])
    both = {"dense": dense, "as converted": ghost}
    stages = {name: ghostnet.evaluate(model, test).to_dict() for name, model in both.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for number, pixels in enumerate(images.train_images[:count]):
            Image.fromarray(pixels).save(folder / f"{number}.png")
        final = ghostnet.evaluate(taught(ghost, dense, folder, epochs), test).to_dict()
    return {**final, "params": report.params_after, "macs": report.macs_after, "stages": stages}


def main(arguments: list[str]) -> None:
    network, count, epochs, record = arguments[0], int(arguments[1]), float(arguments[2]), Path(arguments[3])
    started = time.monotonic()
    metrics = measured(ghostnet.load(network), count, epochs)
    for name, accuracy in {**metrics["stages"], "taught without labels": metrics}.items():
        print(f"{name:22} {accuracy['top1']:.2f} %")
    name = Path(network).stem
    recipe = {"name": f"unlabelled_{name}", "images": count, "epochs": epochs, "settings": _SETTINGS}
    seconds = time.monotonic() - started
    given = f"{Path(network).name} {count} {epochs:g} {record.name}"
    command = f"python examples/without_labels.py {given}"
    write_record(record, metrics, seconds=seconds, recipe=recipe, more={"command": command})


if __name__ == "__main__":
    main(sys.argv[1:])
