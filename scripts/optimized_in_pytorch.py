"""Time converted networks in PyTorch itself: as they are, as `deploy.optimize` rewrites them, and compiled after that.

For maintainers, on a machine that does nothing else (one thread, float32, one image; random weights and statistics, and
channels in an order of their own, as matching leaves them; all of a network take turns in one process):

    python scripts/optimized_in_pytorch.py results/deploy_pytorch/optimized.json
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import nn

from ghostnet.convert import absorb_channel_orders_, ghostify
from ghostnet.deploy import optimize
from ghostnet.deploy.passes import default_passes
from ghostnet.deploy.random_weights import randomise_statistics_
from ghostnet.measure import profile, time_interleaved
from ghostnet.models import create_model
from ghostnet.nn import GhostConv2d
from ghostnet.recipes.result import make_result, write_json

CASES = {  # network, side of its images
    "resnet18": ("torchvision:resnet18", 224),
    "resnet50": ("torchvision:resnet50", 224),
    "vgg16": ("torchvision:vgg16_bn", 224),
    "resnet56": ("resnet56", 32),
}
NEW = ("scale_shift",)  # what this script is there to judge


def networks(name: str, side: int) -> dict[str, nn.Module]:
    """Return a dense network, its Ghost form (s = 2), and both as `optimize` gives them, compiled or not."""
    torch.manual_seed(0)
    size = (3, side, side)
    dense = randomise_statistics_(_network(name), size)
    ghost, _ = ghostify(dense, init="random", example_input=torch.zeros(1, *size))
    for module in ghost.modules():
        if isinstance(module, GhostConv2d):
            module.set_channel_order_(torch.randperm(module.out_channels))
    absorb_channel_orders_(ghost)
    ghost.eval()
    older = [name for name in default_passes() if name not in NEW]
    optimized = {"dense": optimize(dense, input_size=size), "ghost": optimize(ghost, input_size=size)}
    return {
        "dense": dense,
        "dense, optimized": optimized["dense"],
        "dense, compiled": torch.compile(optimized["dense"]),
        "ghost": ghost,
        "ghost, optimized": optimized["ghost"],
        "ghost, compiled": torch.compile(optimized["ghost"]),
        f"ghost, without {', '.join(NEW)}": optimize(ghost, input_size=size, passes=older),
    }


def _network(name: str) -> nn.Module:
    if name.startswith("torchvision:"):
        from torchvision import models

        made: nn.Module = models.get_model(name.removeprefix("torchvision:"), weights=None)
        return made.eval()
    return create_model(name).eval()


def measure(name: str, *, seconds: float = 10.0) -> dict[str, Any]:
    """Return milliseconds of all forms, and ratios to the dense network as `optimize` gives it.

    Args:
        name: key of `CASES`.
        seconds: time for each.
    """
    torch.set_num_threads(1)
    network, side = CASES[name]
    made, image = networks(network, side), torch.rand(1, 3, side, side)
    share = profile(made["ghost"], (3, side, side)).macs / profile(made["dense"], (3, side, side)).macs
    with torch.inference_mode():
        calls = {key: lambda model=model: model(image) for key, model in made.items()}
        timings = time_interleaved(calls, min_seconds=seconds, min_rounds=10, warmup=3)
    reference = timings["dense, optimized"].median_ms
    ratios = {key: round(timing.median_ms / reference, 3) for key, timing in timings.items()}
    return {
        "macs_ratio": round(share, 3),
        "ratios": ratios,
        **{key: timing.to_dict() for key, timing in timings.items()},
    }


def main(path: str) -> None:
    """Measure and write the result."""
    started = time.monotonic()
    metrics = {name: measure(name) for name in CASES}
    settings = {"name": "optimized_in_pytorch", "networks": CASES, "precision": "float32", "threads": 1}
    record = make_result(
        "deploy_pytorch", metrics=metrics, seconds=time.monotonic() - started, seed=0, recipe=settings
    )
    record["command"] = f"python scripts/optimized_in_pytorch.py {path}"
    write_json(path, record)
    for name, found in metrics.items():
        print(name, found["ratios"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/optimized_in_pytorch.py RESULT.json")
    main(sys.argv[1])
