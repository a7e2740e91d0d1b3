"""How many calibration images does a conversion need? Convert with few and with more of them, and count.

    python examples/how_many_images.py resnet9_050 2 0,synthetic,4,16,64,256,2048 record.json

Converts a network trained on CIFAR-10 at the given ratio, with so many unlabelled training images (the same ones on
every machine), or with 256 made for the network without any, and no training, and prints the accuracy on all 10,000
test images, and the seconds of the conversion.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import ghostnet
from ghostnet import convert, data
from ghostnet.recipes import write_record

SYNTHETIC = 256
NORMAL: dict[str, Any] = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}


def calibration(images: data.Cifar10, count: int) -> list[Tensor] | None:
    """Return batches of some training images, None of no image."""
    if not count:
        return None
    chosen = np.random.default_rng(0).permutation(len(images.train_images))[:count]
    batches = data.TensorBatches(
        images.train_images[chosen], images.train_labels[chosen], min(count, 256), **NORMAL
    )
    return [pixels for pixels, _ in batches]


def measured(dense: nn.Module, ratio: int, counts: list[str]) -> dict[str, Any]:
    """Convert once for each count; return accuracies of the dense and of the converted networks."""
    images = data.load_cifar10(None)
    test = data.TensorBatches(images.test_images, images.test_labels, 500, **NORMAL)
    before = ghostnet.evaluate(dense, test)
    print(f"{'dense':>9} {before.top1:.2f} %", flush=True)
    rows = []
    for count in counts:
        started = time.monotonic()
        if count == "synthetic":
            batches = convert.synthetic_images(dense, SYNTHETIC, input_size=(3, 32, 32)).split(64)
        else:
            batches = calibration(images, int(count))
        ghost, _ = ghostnet.ghostify(dense, ratio=ratio, calibration=batches)
        seconds = time.monotonic() - started
        after = ghostnet.evaluate(ghost, test)
        row = {"images": SYNTHETIC if count == "synthetic" else int(count), "synthetic": count == "synthetic"}
        rows.append({**row, "top1": after.top1, "loss": after.loss, "conversion_s": seconds})
        print(f"{count:>9} {after.top1:.2f} %  {seconds:.0f} s", flush=True)
    return {"dense": before.to_dict(), "converted": rows}


def main(arguments: list[str]) -> None:
    network, ratio, counts, record = arguments[0], int(arguments[1]), arguments[2], Path(arguments[3])
    started = time.monotonic()
    metrics = measured(ghostnet.load(network), ratio, counts.split(","))
    name = f"images_{Path(network).stem}"
    recipe = {"name": name, "ratio": ratio}
    seconds = time.monotonic() - started
    given = f"{Path(network).name} {ratio} {counts} {record.name}"
    command = f"python examples/how_many_images.py {given}"
    write_record(record, metrics, seconds=seconds, recipe=recipe, more={"command": command})


if __name__ == "__main__":
    main(sys.argv[1:])
