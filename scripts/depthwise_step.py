"""Time one optimiser step on the CPU as `train.fit` takes it, and with PyTorch's own depthwise convolutions.

For maintainers, on a machine that does nothing else (one thread, channels_last; of each network all four, in bfloat16
autocast and float32, take turns in one process):

    python scripts/depthwise_step.py results/training/depthwise_step.json
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ghostnet.convert import ghostify
from ghostnet.measure import time_interleaved
from ghostnet.models import create_model
from ghostnet.recipes.result import make_result, write_json
from ghostnet.train.fast_depthwise import fast_depthwise
from ghostnet.train.narrow_norm import fast_narrow_norms

Case = tuple[
    str, dict[str, Any], int, int
]  # network, settings of its conversion, images, rows and columns of each
Fast = Callable[[nn.Module], contextlib.AbstractContextManager[Any]]

CASES: dict[str, Case] = {
    "ghostnet_100": ("ghostnet_100", {}, 32, 224),
    "mobilenetv3_large_100": ("mobilenetv3_large_100", {}, 32, 224),
    "resnet20, s = 2, d = 3": ("resnet20", {"ratio": 2, "cheap_kernel_size": 3}, 128, 32),
    "resnet20, s = 2, d = 5": ("resnet20", {"ratio": 2, "cheap_kernel_size": 5}, 128, 32),
    "resnet20, s = 2, d = 7": ("resnet20", {"ratio": 2, "cheap_kernel_size": 7}, 128, 32),
    "resnet20, s = 3, d = 3": ("resnet20", {"ratio": 3, "cheap_kernel_size": 3}, 128, 32),
    "resnet20, s = 5, d = 3": ("resnet20", {"ratio": 5, "cheap_kernel_size": 3}, 128, 32),
}


def training_step(case: Case, fast: Fast, *, bf16: bool) -> Callable[[], None]:
    """Return one step of a network of its own; `fast`: what replaces layers in it, as `fit` does."""
    network, settings, batch, size = case
    torch.manual_seed(0)
    model: nn.Module = create_model(network)
    if settings:
        model = ghostify(model, **settings)[0]
    model = model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        with fast(model), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


@contextlib.contextmanager
def with_norms(model: nn.Module) -> Iterator[None]:
    """Replace depthwise convolutions, and the norms that both sides have."""
    with fast_narrow_norms(model), fast_depthwise(model):
        yield


def measure(
    case: Case, fast: Fast = with_norms, base: Fast = fast_narrow_norms, seconds: float = 15.0
) -> dict[str, Any]:
    """Return the milliseconds of all and the ratio of ours to PyTorch's, in each type, on one thread.

    Args:
        case: of `CASES`.
        fast: what replaces layers in ours.
        base: what replaces layers in PyTorch's.
        seconds: time for each.
    """
    torch.set_num_threads(1)
    kinds = {"bfloat16": True, "float32": False}
    steps = {
        f"{kind}, {name}": training_step(case, chosen, bf16=bf16)
        for kind, bf16 in kinds.items()
        for name, chosen in (("ours", fast), ("PyTorch's", base))
    }
    timings = time_interleaved(steps, min_seconds=seconds, min_rounds=5, warmup=2)
    medians = {name: timing.median_ms for name, timing in timings.items()}
    return {
        **{
            f"{kind}_ratio": round(medians[f"{kind}, ours"] / medians[f"{kind}, PyTorch's"], 3)
            for kind in kinds
        },
        **{name: timing.to_dict() for name, timing in timings.items()},
    }


def main(path: str, name: str, cases: dict[str, Case], fast: Fast, base: Fast) -> None:
    """Measure all cases and write the result.

    Args:
        path: of the result.
        name: of the script.
        cases: what is measured.
        fast: what replaces layers in ours.
        base: what replaces layers in PyTorch's.
    """
    started = time.monotonic()
    metrics = {}
    for case, values in cases.items():
        metrics[case] = measure(values, fast, base)
        print(case, metrics[case]["bfloat16_ratio"], metrics[case]["float32_ratio"], flush=True)
    settings = {"name": name, "cases": {case: list(values) for case, values in cases.items()}}
    seconds = time.monotonic() - started
    record = make_result("training", metrics=metrics, seconds=seconds, seed=0, recipe=settings)
    record["command"] = f"python scripts/{name}.py {path}"
    write_json(path, record)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/depthwise_step.py RESULT.json")
    main(sys.argv[1], "depthwise_step", CASES, with_norms, fast_narrow_norms)
