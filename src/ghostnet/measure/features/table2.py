"""Table 2's experiment on any layer: three pairs of like maps, and the error of the best filter for d = 1, 3, 5, 7.

The paper picks three pairs by eye and does not say how it scales the maps. Here the pairs are the three with the
smallest relative error at d = 3 that share no map, and each error is given in the maps' own units and as a share of
the target's variance. Three pairs are few, so the mean over all maps of the best partner's error stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ghostnet.errors import InputError
from ghostnet.measure.features.pairs import MapPair, fit_pairs

KERNEL_SIZES = (1, 3, 5, 7)
CHOSEN_AT = 3  # d of GhostNet's own modules


@dataclasses.dataclass(frozen=True)
class PairStudy:
    """The errors of a layer's most alike pairs, by kernel size d.

    Attributes:
        maps: how many maps vary.
        channels: how many maps there are.
        map_size: `(H, W)`.
        images: how many images every fit serves.
        pairs: the most alike ones; each a dict of `source`, `target` and, by d, `mse` and `relative_error`.
        best_partner: by d, the mean over maps of the relative error from the best of all other maps.
    """

    maps: int
    channels: int
    map_size: tuple[int, int]
    images: int
    pairs: list[dict[str, Any]]
    best_partner: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; kernel sizes become strings."""
        value = dataclasses.asdict(self)
        value["pairs"] = [
            {
                key: {str(size): number for size, number in entry.items()}
                if isinstance(entry, dict)
                else entry
                for key, entry in pair.items()
            }
            for pair in self.pairs
        ]
        value["best_partner"] = {str(size): number for size, number in self.best_partner.items()}
        return value


def study_pairs(maps: Tensor, *, kernel_sizes: Sequence[int] = KERNEL_SIZES, count: int = 3) -> PairStudy:
    """Do Table 2's experiment on a layer's maps.

    Args:
        maps: `(N, C, H, W)`, from `feature_maps`.
        kernel_sizes: the values of d; must hold 3, at which the pairs are chosen.
        count: how many pairs.

    Raises:
        InputError: as `fit_pairs`, or kernel sizes without 3.

    Example:
        >>> import torch
        >>> found = study_pairs(torch.rand(1, 6, 12, 12))
        >>> [sorted(pair["mse"]) for pair in found.pairs]
        [[1, 3, 5, 7], [1, 3, 5, 7], [1, 3, 5, 7]]
    """
    if CHOSEN_AT not in kernel_sizes:
        raise InputError(
            f"`kernel_sizes` (={tuple(kernel_sizes)}) must hold {CHOSEN_AT}: pairs are chosen at it"
        )
    fits = {size: fit_pairs(maps, size) for size in kernel_sizes}
    chosen = fits[CHOSEN_AT].most_alike(count)
    varies = fits[CHOSEN_AT].relative.isfinite().any(0)
    best = {
        size: float(found.relative.min(0).values[varies].mean()) if bool(varies.any()) else 0.0
        for size, found in fits.items()
    }
    studied = [
        _studied(pair, {size: found.pair(pair.source, pair.target) for size, found in fits.items()})
        for pair in chosen
    ]
    return PairStudy(
        maps=int(varies.sum()),
        channels=maps.shape[1],
        map_size=(maps.shape[2], maps.shape[3]),
        images=maps.shape[0],
        pairs=studied,
        best_partner=best,
    )


def _studied(pair: MapPair, by_size: dict[int, MapPair]) -> dict[str, Any]:
    return {
        "source": pair.source,
        "target": pair.target,
        "mse": {size: found.mse for size, found in by_size.items()},
        "relative_error": {size: found.relative_error for size, found in by_size.items()},
    }
