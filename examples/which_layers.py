"""Does the redundancy score know which layers ghosting hurts least? Ghost each layer alone and measure.

    python examples/which_layers.py resnet9_050 2000 record.json

For every convolution of a network trained on CIFAR-10: its score from the feature maps, and what happens to the answer
when only this layer is converted, on so many test images: loss of accuracy, and rise of the cross-entropy, which says
more where the accuracy hardly moves. Printed with the rank correlation of the score with each.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from torch import Tensor, nn

import ghostnet
from ghostnet import data
from ghostnet.measure import features

_CALIBRATION = 256


def measure(dense: nn.Module, calibration: Tensor, batches: data.TensorBatches) -> list[dict[str, Any]]:
    """Return a row for each scored layer, the most redundant first."""
    before = ghostnet.evaluate(dense, batches)
    rows = []
    for layer in features.redundancy(dense, calibration).ranked():
        ghost, report = ghostnet.ghostify(
            dense, layers=[layer.name], calibration=calibration, refit_plain=False
        )
        if layer.name not in report.converted:
            continue
        after = ghostnet.evaluate(ghost, batches)
        rows.append(
            {
                "layer": layer.name,
                "score": layer.ghost_error,
                "top1_lost": before.top1 - after.top1,
                "loss_rise": after.loss - before.loss,
                "macs_saved": (report.macs_before or 0) - (report.macs_after or 0),
            }
        )
    return rows


def correlations(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return Spearman's rank correlation of the score with both losses; None where nothing varies."""
    found: dict[str, float | None] = {}
    for key in ("top1_lost", "loss_rise"):
        values = [row[key] for row in rows]
        score = [row["score"] for row in rows]
        found[key] = float(spearmanr(score, values).statistic) if len(set(values)) > 1 else None
    return found


def main(arguments: list[str]) -> None:
    from ghostnet.recipes import make_result, write_json

    network, count, record = arguments[0], int(arguments[1]), Path(arguments[2])
    started = time.monotonic()
    dense = ghostnet.load(network)
    images = data.load_cifar10(None)
    mean, std = data.CIFAR10_MEAN, data.CIFAR10_STD
    test = data.TensorBatches(images.test_images[:count], images.test_labels[:count], 200, mean=mean, std=std)
    few = data.TensorBatches(
        images.train_images[:_CALIBRATION],
        images.train_labels[:_CALIBRATION],
        _CALIBRATION,
        mean=mean,
        std=std,
    )
    rows = measure(dense, next(iter(few.epoch(0)))[0], test)
    for row in rows:
        print(
            f"{row['layer']:20} score {row['score']:.3f}: top-1 {-row['top1_lost']:+.2f}, loss {row['loss_rise']:+.4f}"
        )
    metrics = {
        "network": Path(network).name,
        "count": count,
        "layers": rows,
        "rank_correlation": correlations(rows),
    }
    name = f"single_{Path(network).stem}"
    result = make_result(
        "features", metrics=metrics, seconds=time.monotonic() - started, seed=0, recipe={"name": name}
    )
    given = f"{Path(network).name} {count} {record.name}"
    write_json(record, {**result, "command": f"python examples/which_layers.py {given}"})
    print(json.dumps(metrics["rank_correlation"]))


if __name__ == "__main__":
    main(sys.argv[1:])
