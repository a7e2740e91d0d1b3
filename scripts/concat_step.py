"""Time one optimiser step of Ghost-ResNet-20 on the CPU as `train.fit` takes it, and with plain `torch.cat`.

Ours is our concatenation and the batch norms of narrow maps that `fit` runs; beside the plain network (`torch.cat` and
PyTorch's own norms) each of the two is also timed alone. For maintainers, on a machine that does nothing else (one
thread, bfloat16 autocast, channels_last, batch 128; all take turns in one process):

    python scripts/concat_step.py results/training/concat_step.json
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostnet.measure import time_interleaved
from ghostnet.models import create_model
from ghostnet.nn import concat_channels, ghost_conv
from ghostnet.recipes.result import make_result, write_json
from ghostnet.train.narrow_norm import fast_narrow_norms

NETWORK, BATCH = "ghost_resnet20", 128


def plain_cat(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate as any implementation does."""
    return torch.cat([first, second], dim=1)


def training_step(concat: Callable[[Tensor, Tensor], Tensor], *, narrow: bool) -> Callable[[], None]:
    """Return one step of a network of its own; `narrow`: with the norms that `fit` runs."""
    torch.manual_seed(0)
    model: nn.Module = create_model(NETWORK).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def step() -> None:
        norms = fast_narrow_norms(model) if narrow else contextlib.nullcontext()
        with mock.patch.object(ghost_conv, "concat_channels", concat), norms:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

    return step


def measure(seconds: float = 20.0) -> dict[str, Any]:
    """Return the milliseconds of all and the ratio of ours to the plain network's, on one thread.

    Args:
        seconds: time for each.
    """
    torch.set_num_threads(1)
    steps = {
        "ours": training_step(concat_channels, narrow=True),
        "torch.cat": training_step(plain_cat, narrow=False),
        "our concatenation alone": training_step(concat_channels, narrow=False),
        "narrow norms alone": training_step(plain_cat, narrow=True),
    }
    timings = time_interleaved(steps, min_seconds=seconds, min_rounds=10, warmup=3)
    plain = timings["torch.cat"].median_ms
    ratios = {name: round(timing.median_ms / plain, 3) for name, timing in timings.items()}
    return {
        "ratio": ratios["ours"],
        "ratios": ratios,
        **{name: timing.to_dict() for name, timing in timings.items()},
    }


def main(path: str) -> None:
    """Measure and write the result."""
    started = time.monotonic()
    metrics = measure()
    settings = {
        "name": "concat_step",
        "network": NETWORK,
        "batch_size": BATCH,
        "precision": "bfloat16 autocast",
    }
    record = make_result(
        "training", metrics=metrics, seconds=time.monotonic() - started, seed=0, recipe=settings
    )
    record["command"] = f"python scripts/concat_step.py {path}"
    write_json(path, record)
    print(*(f"{name} / torch.cat: {ratio}" for name, ratio in metrics["ratios"].items()), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/concat_step.py RESULT.json")
    main(sys.argv[1])
