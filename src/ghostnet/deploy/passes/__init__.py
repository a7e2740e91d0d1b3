"""Exact rewrites of a traced network, one file each: `fx.GraphModule -> fx.GraphModule`, the same function.

`PASSES` lists them in the order in which they run; `default_passes` gives the set that was measured to be quickest in
a runtime (`../passes.toml`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import fx

from ghostnet.bfloat16 import has_bfloat16
from ghostnet.deploy.passes.canonical import canonical
from ghostnet.deploy.passes.channels_last import channels_last
from ghostnet.deploy.passes.fold_batch_norm import fold_batch_norm
from ghostnet.deploy.passes.head import head
from ghostnet.deploy.passes.operations import note_shapes
from ghostnet.deploy.passes.pixel_products import pixel_products
from ghostnet.deploy.passes.scale_shift import scale_shift
from ghostnet.deploy.passes.split import join_late, pad_eights, pad_halves, split, split_residuals
from ghostnet.deploy.passes.squeeze_excite import squeeze_excite
from ghostnet.deploy.passes.twin import twin, twin_rest
from ghostnet.deploy.passes.winograd import winograd
from ghostnet.deploy.passes.winograd_products import winograd_products
from ghostnet.deploy.processor import processor_features
from ghostnet.errors import InputError, unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PASSES: dict[str, Callable[[fx.GraphModule], fx.GraphModule]] = {
    "squeeze_excite": squeeze_excite,
    "fold_batch_norm": fold_batch_norm,
    "head": head,
    # these two stand before the passes that carry maps in parts: they read them whole
    "winograd_products": winograd_products,
    "winograd": winograd,  # what the other one leaves
    "twin": twin,
    "twin_rest": twin_rest,
    "join_late": join_late,
    "split": split,
    "split_residuals": split_residuals,
    "pad_halves": pad_halves,
    "pad_eights": pad_eights,
    "pixel_products": pixel_products,  # behind those that join squeeze-excite
    "scale_shift": scale_shift,
    "channels_last": channels_last,
}
NEED_SIZES = frozenset({"winograd", "winograd_products"})  # passes that read the sizes of maps
_DEFAULTS = Path(__file__).parent.parent / "passes.toml"


def default_passes(target: str | None = None) -> tuple[str, ...]:
    """Return the names of the passes that were measured to be quickest in a runtime; None is PyTorch itself.

    Which they are depends on the processor in a runtime that lays maps out in blocks of its registers' width, or that
    takes bfloat16 by itself where that is much quicker: this one's counts.

    Raises:
        InputError: there is no measured set for `target`.

    Example:
        >>> "fold_batch_norm" in default_passes("onnx")
        True
    """
    sets = tomllib.loads(_DEFAULTS.read_text(encoding="utf-8"))
    name = "eager" if target is None else target
    if name not in sets:
        raise unknown_name("target with measured passes", name, sets)
    found = sets[name]
    extension = torch.backends.cpu.get_cpu_capability().lower()  # "avx512", "avx2", ...
    names = found.get(extension, found)["passes"]
    if not _much_quicker_in_bfloat16():
        names = [*names, *found.get("for_float32", ())]
    return checked_passes(names)


def _much_quicker_in_bfloat16() -> bool:
    """Return whether bfloat16 beats float32 here even where that multiplies a quarter as often.

    AVX-512 BF16 multiplies twice as many numbers at once, AMX far more. A processor of which nothing else is known
    counts as one with AMX.
    """
    features = processor_features()
    return has_bfloat16("cpu") and not ("avx512_bf16" in features and "amx_bf16" not in features)


def checked_passes(names: Sequence[str]) -> tuple[str, ...]:
    """Return `names` in the order in which passes run.

    Raises:
        InputError: a name that is no pass, or text instead of a list.
    """
    if isinstance(names, str):
        raise InputError(f'`passes` (={names!r}) must be a list of names; use ["{names}"]')
    for name in names:
        if name not in PASSES:
            raise unknown_name("pass", name, PASSES)
    return tuple(name for name in PASSES if name in names)


def apply_passes(
    traced: fx.GraphModule, names: Sequence[str], example: torch.Tensor | None = None
) -> fx.GraphModule:
    """Return the network after `canonical` and the passes `names`.

    Args:
        traced: the network.
        names: of `PASSES`.
        example: an input of the size that the network is for; without it those in `NEED_SIZES` find nothing to do.
    """
    result = canonical(traced)
    for name in checked_passes(names):
        if name in NEED_SIZES and example is not None:
            note_shapes(result, example)
        result = PASSES[name](result)
    return result


__all__ = ["NEED_SIZES", "PASSES", "apply_passes", "canonical", "checked_passes", "default_passes"]
