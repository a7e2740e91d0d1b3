"""`ghostnet convert --method l1` and the other pruning methods: to a share of the MACs, or of the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghostnet.cli.cifar10 import Normalisation
from ghostnet.cli.output import note
from ghostnet.cli.planned import Planned
from ghostnet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnet.convert import ConversionReport


@dataclass(frozen=True)
class Pruning:
    """What is pruned, and how.

    Attributes:
        model: the dense network.
        method: the pruning method.
        batches: calibration images, with labels where there are any, or None.
        example: images of the size that MACs and times are of.
        seed: of what is drawn.
        multiple: of channels that each layer keeps, None for the usual one.
        streams: layers whose maps are added lose channels together.
    """

    model: nn.Module
    method: str
    batches: list[Any] | None
    example: Tensor
    seed: int
    multiple: int | None
    streams: bool


def pruned(
    pruning: Pruning, macs: float, training: tuple[str | None, Normalisation, Path]
) -> tuple[nn.Module, ConversionReport]:
    """Prune to a share of the MACs; where the method trains, with the one training loop on CIFAR-10.

    Args:
        pruning: what and how.
        macs: the share that stays.
        training: where CIFAR-10 is, how it is normalised, and where a checkpoint goes.
    """
    from ghostnet.convert import prune

    data_dir, (mean, std), checkpoint = training
    model, sparsify = pruning.model, None
    if pruning.method == "sss":
        from ghostnet import data, recipes
        from ghostnet.recipes.identity import weights_of
        from ghostnet.recipes.sets import batches_of

        settings = recipes.load_recipe("short_resnet20_sss", [f"seed={pruning.seed}"])
        settings = settings.model_copy(update={"name": "convert", "mean": mean, "std": std})
        dataset = data.load_cifar10(data_dir, progress=True)
        sparsify = recipes.sparsity_training(
            settings,
            batches_of(dataset, settings, training=True),
            checkpoint=checkpoint,
            identity={"network": weights_of(model), "macs": macs, "mean": list(mean), "std": list(std)},
        )
    return prune(
        model,
        pruning.method,
        macs=macs,
        calibration=pruning.batches,
        sparsify=sparsify,
        example_input=pruning.example,
        seed=pruning.seed,
        multiple=1 if pruning.multiple is None else pruning.multiple,
        streams=pruning.streams,
    )


def prune_planned(
    pruning: Pruning,
    plan: str,
    budget: float,
    files: Path | None,
    result: Path | None,
    recipe: dict[str, Any],
) -> Planned:
    """Prune to a share of the time in a runtime, and write what was measured.

    Args:
        pruning: what and how.
        plan: runtime and precision.
        budget: time ratio.
        files: the folder of exported candidates, or None.
        result: the record to write, or None.
        recipe: what the record says of the conversion.
    """
    from ghostnet import recipes
    from ghostnet.recipes.latency_prune import MULTIPLE, prune_by_plan

    started = time.perf_counter()
    target, _, precision = plan.partition(":")
    multiple = MULTIPLE if pruning.multiple is None else pruning.multiple
    network, report, found = prune_by_plan(
        pruning.model,
        target,
        method=pruning.method,
        budget=budget,
        example_input=pruning.example,
        calibration=pruning.batches,
        multiple=multiple,
        streams=pruning.streams,
        precision=precision or "fp32",
        seed=pruning.seed,
        folder=files,
        announce=note,
    )
    if result is not None:
        seconds = time.perf_counter() - started
        recipe = {"name": result.stem, **recipe, "multiple": multiple}
        recipe |= {"streams": True} if pruning.streams else {}
        recipes.write_record(result, found.to_dict(), seconds=seconds, recipe=recipe, unplaced="plan")
    return Planned(found, network, report)


def require_labels(batches: list[Any], calibration: str) -> None:
    """Raise where calibration images came without labels.

    Raises:
        InputError: they did.
    """
    if not isinstance(batches[0], tuple):
        raise InputError(
            f"method 'taylor' needs labels: {calibration} must have a subfolder for each class of the network"
        )
