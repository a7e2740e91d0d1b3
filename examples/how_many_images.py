"""How many calibration images does a conversion need? Convert with few and with more of them, and count.

    python examples/how_many_images.py resnet9_050 2 4,16,64,256,2048 record.json

Converts a network trained on CIFAR-10 at the given ratio, with so many unlabelled training images (the same ones on
every machine) and no training, and prints the accuracy on all 10,000 test images, and the seconds of the conversion.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import ghostnet
from ghostnet import data
from ghostnet.recipes import write_record

NORMAL: dict[str, Any] = {"mean": data.CIFAR10_MEAN, "std": data.CIFAR10_STD}


def measured(dense: nn.Module, ratio: int, counts: list[int]) -> dict[str, Any]:
    """Convert once for each count; return accuracies of the dense and of the converted networks."""
    images = data.load_cifar10(None)
    test = data.TensorBatches(images.test_images, images.test_labels, 500, **NORMAL)
    shuffled = np.random.default_rng(0).permutation(len(images.train_images))
    before = ghostnet.evaluate(dense, test)
    print(f"{'dense':>6} {before.top1:.2f} %", flush=True)
    rows = []
    for count in counts:
        chosen = shuffled[:count]
        batches = data.TensorBatches(
            images.train_images[chosen], images.train_labels[chosen], min(count, 256), **NORMAL
        )
        started = time.monotonic()
        ghost, _ = ghostnet.ghostify(dense, ratio=ratio, calibration=[pixels for pixels, _ in batches])
        seconds = time.monotonic() - started
        after = ghostnet.evaluate(ghost, test)
        rows.append({"images": count, "top1": after.top1, "loss": after.loss, "conversion_s": seconds})
        print(f"{count:6} {after.top1:.2f} %  {seconds:.0f} s", flush=True)
    return {"dense": before.to_dict(), "converted": rows}


def main(arguments: list[str]) -> None:
    network, ratio, counts, record = arguments[0], int(arguments[1]), arguments[2], Path(arguments[3])
    started = time.monotonic()
    metrics = measured(ghostnet.load(network), ratio, [int(count) for count in counts.split(",")])
    name = f"images_{Path(network).stem}"
    recipe = {"name": name, "ratio": ratio}
    seconds = time.monotonic() - started
    given = f"{Path(network).name} {ratio} {counts} {record.name}"
    command = f"python examples/how_many_images.py {given}"
    write_record(record, metrics, seconds=seconds, recipe=recipe, more={"command": command})


if __name__ == "__main__":
    main(sys.argv[1:])
