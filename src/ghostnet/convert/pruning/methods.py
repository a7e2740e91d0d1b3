"""The pruning methods by name: what each needs and where it comes from. A new method is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ghostnet.convert.pruning.job import PruneJob
from ghostnet.convert.pruning.reconstruct import prune_channel, prune_thinet
from ghostnet.convert.pruning.scores import prune_l1, prune_taylor
from ghostnet.convert.pruning.sparsity import prune_sss
from ghostnet.errors import InputError, unknown_name


@dataclass(frozen=True)
class PruneMethod:
    """One method.

    Args:
        name: registry key.
        run: chooses the channels that stay at each site; may change `job.pruned` at full width.
        needs: "nothing", "images", "labels" or "training".
        reference: where it was published, and its number in the paper's list.
        one_reader: it repairs the one layer that reads a convolution, and leaves other sites alone.
        norms: it leaves the statistics of norms behind the cut as they were, though the cut changes them.
        uniform: every layer loses the same share of its channels, so that the MACs alone say how many.
    """

    name: str
    run: Callable[[PruneJob], dict[str, Tensor]]
    needs: str
    reference: str
    uniform: bool = False
    one_reader: bool = False
    norms: bool = False


PRUNE_METHODS: dict[str, PruneMethod] = {
    method.name: method
    for method in (
        PruneMethod("l1", prune_l1, "nothing", "Li et al. 2017 [31, 37]", uniform=True, norms=True),
        PruneMethod("channel", prune_channel, "images", "He et al. 2017 [18]", uniform=True, one_reader=True),
        PruneMethod(
            "thinet",
            prune_thinet,
            "images",
            "Luo et al. 2017 [39]",
            uniform=True,
            one_reader=True,
            norms=True,
        ),
        PruneMethod("sss", prune_sss, "training", "Huang and Wang 2018 [23]"),
        PruneMethod("taylor", prune_taylor, "labels", "Molchanov et al. 2019 [41]", norms=True),
    )
}
METHODS = ("ghost", *PRUNE_METHODS)


def check_streams(method: str) -> None:
    """Raise unless a method can choose channels of layers whose maps are added.

    Raises:
        InputError: it repairs one layer behind another.
    """
    if method in PRUNE_METHODS and PRUNE_METHODS[method].one_reader:
        raise InputError(
            f"method {method!r} repairs one layer behind another, and leaves streams alone; use 'l1', 'taylor' or 'sss'"
        )


def check_method(name: object) -> str:
    """Return the name of a conversion method if there is such a one ("ghost" or a pruning method).

    Raises:
        InputError: it is unknown; near names are listed.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return str(name)
