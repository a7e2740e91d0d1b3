"""Table 2's filters two ways: found in closed form, and learnt by 500 steps of SGD as one would by hand.

    python examples/filters_against_sgd.py resnet50v2_onnxzoo_stem_stage1to3.npz photos/ stages.0 record.json
    python examples/filters_against_sgd.py resnet9_050 photos/ features.5 record.json

For the three most alike pairs of a layer's maps and d = 1, 3, 5, 7 it prints both errors. SGD gets the best of four
learning rates; the closed form is the minimum, so it can only be as good.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostnet.cli.features import open_any, read_images
from ghostnet.cli.images import image_files, preprocessing_for
from ghostnet.measure import features

LEARNING_RATES = (0.003, 0.03, 0.1, 0.3)
STEPS = 500


def by_sgd(source: Tensor, target: Tensor, size: int) -> float:
    """Return the least error that 500 steps of SGD with momentum 0.9 reach from a zero filter; inputs `(N, H, W)`."""
    scale = source.square().mean().rsqrt()  # so that one set of learning rates fits every layer
    inputs, wanted = (source * scale)[:, None], target[:, None]
    best = float("inf")
    for learning_rate in LEARNING_RATES:
        weight = torch.zeros(1, 1, size, size, requires_grad=True)
        optimiser = torch.optim.SGD([weight], learning_rate, momentum=0.9)
        for _ in range(STEPS):
            loss = F.mse_loss(F.conv2d(inputs, weight, padding=size // 2), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        # in double and on the maps as they are, or rounding alone could win
        made = F.conv2d(source[:, None].double(), (weight * scale).detach().double(), padding=size // 2)
        reached = float(F.mse_loss(made, wanted.double()))
        best = min(best, reached) if reached == reached else best
    return best


def compare(network: str, images: Path, layer: str, limit: int = 4) -> list[dict[str, Any]]:
    """Return a row for each pair and d: both errors, and their ratio."""
    model = open_any(network)
    _, batch = read_images(image_files([images])[:limit], preprocessing_for(model))
    maps = features.feature_maps(model, layer, batch)
    rows = []
    for pair in features.fit_pairs(maps, 3).most_alike(3):
        for size in features.KERNEL_SIZES:
            source, target = maps[:, pair.source], maps[:, pair.target]
            closed, learnt = features.fit_filter(source, target, size)[1], by_sgd(source, target, size)
            rows.append(
                {
                    "pair": [pair.source, pair.target],
                    "d": size,
                    "closed_form": closed,
                    "sgd": learnt,
                    "ratio": learnt / closed,
                }
            )
    return rows


def main(arguments: list[str]) -> None:
    from ghostnet.recipes import make_result, write_json

    network, images, layer, record = arguments
    started = time.monotonic()
    rows = compare(network, Path(images), layer)
    for row in rows:
        print(f"{row['pair']} d={row['d']}: closed form {row['closed_form']:.3e}, SGD {row['sgd']:.3e}")
    metrics = {"network": Path(network).name, "layer": layer, "steps": STEPS, "rows": rows}
    name = f"sgd_{Path(network).name.split('.')[0]}"
    result = make_result(
        "features", metrics=metrics, seconds=time.monotonic() - started, seed=0, recipe={"name": name}
    )
    given = " ".join([Path(network).name, Path(images).name, layer, Path(record).name])
    write_json(record, {**result, "command": f"python examples/filters_against_sgd.py {given}"})
    print(json.dumps({"worst ratio": min(row["ratio"] for row in rows)}))


if __name__ == "__main__":
    main(sys.argv[1:])
