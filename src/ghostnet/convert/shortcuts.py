"""Shortcuts that pad channels with zeros, found by what they do: `find_padded_shortcuts`.

Which channels of the wider map are which of the narrower one is tried on random maps, since there are many ways to
write it: `F.pad`, a concatenation with zeros, slices, a pooling. Left out: shortcuts that are code of a block's own
forward and no module, and those that average pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghostnet.convert.aliases import held_elsewhere
from ghostnet.convert.rows import known_input_size
from ghostnet.nn.channel_placement import ChannelPlacement
from ghostnet.nn.copies import copy_model
from ghostnet.nn.edits import record_edits_, recorded_edits, replace_module_
from ghostnet.nn.own_forward import has_own_forward

_MAPS = 4  # axes
_PIXELS = 16  # that tell channels apart


@torch.no_grad()
def find_padded_shortcuts(model: nn.Module, example: Tensor | None) -> dict[str, ChannelPlacement]:
    """Find modules that do nothing but take every so-manieth pixel and set channels between channels of zeros.

    Args:
        model: any network; it is not changed.
        example: `(N, C, H, W)`, for the numbers of channels; without one the size that the zoo says, or ImageNet's.

    Returns:
        For each path what computes the same.
    """
    paths = _candidates(model)
    if not paths:
        return {}
    place = next(model.parameters(), torch.empty(0))
    if example is None:
        example = torch.zeros((1, *known_input_size(model, None)), dtype=place.dtype)
    example = example[:1].to(place.device)
    copied = copy_model(model, share_parameters=True).eval()  # code may keep what it computes
    sizes = _sizes_of_narrower(copied, paths, example)
    found = {path: _placement(copied.get_submodule(path), example, size) for path, size in sizes.items()}
    return {path: placement for path, placement in found.items() if placement is not None}


def _sizes_of_narrower(model: nn.Module, paths: Iterable[str], example: Tensor) -> dict[str, torch.Size]:
    """Return the sizes of the maps that modules are given, of those that make more channels than that."""
    sizes: dict[str, torch.Size] = {}

    def note(path: str, args: tuple[Any, ...], made: Any) -> None:
        maps = (*args, made)
        of_maps = len(maps) == 2 and all(isinstance(one, Tensor) and one.dim() == _MAPS for one in maps)
        if of_maps and made.shape[1] > args[0].shape[1]:
            sizes[path] = args[0].shape

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, args, made, path=path: note(path, args, made)
        )
        for path in paths
    ]
    try:
        model(example.clone())
    except Exception:  # it is the user's code that runs; what is wrong with the example is said elsewhere
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _candidates(model: nn.Module) -> list[str]:
    """Return the paths of modules of a class of somebody's own that hold nothing, in one place each."""
    places: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(path)
    held = held_elsewhere(model)
    return [
        paths[0]
        for module, paths in places.items()
        if paths[0]
        and len(paths) == 1
        and paths[0] not in held
        and not type(module).__module__.startswith("torch.nn.")
        and not _holds_anything(module)
    ]


def _holds_anything(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    inside = (*module.parameters(), *module.buffers(), *module.children())
    return bool(hooks or inside) or has_own_forward(module)


def _placement(module: nn.Module, like: Tensor, shape: torch.Size) -> ChannelPlacement | None:
    """Return what computes the same as a module that was given maps of a shape, or None."""
    found = None
    for maps in _probes(like, shape):
        try:
            wanted = [_run(module, maps, training=training) for training in (False, True)]
        except Exception:  # as above
            return None
        if not all(isinstance(made, Tensor) and made.dim() == _MAPS for made in wanted):
            return None
        found = _places(maps, wanted[0]) if found is None else found
        if found is None or not all(torch.equal(found(maps), made) for made in wanted):
            return None
    return found


def _probes(like: Tensor, shape: torch.Size) -> Iterator[Tensor]:
    """Yield random maps of two sizes; whole numbers, which products in half precision or TF32 do not round."""
    draw = torch.Generator().manual_seed(0)
    for more in (0, 1):
        size = (2, shape[1], shape[2] + more, shape[3] + more)
        yield torch.randint(-128, 128, size, generator=draw).to(like)


def _run(module: nn.Module, maps: Tensor, *, training: bool) -> Tensor:
    made: Tensor = module.train(training)(maps.clone())
    return made


def _places(maps: Tensor, made: Tensor) -> ChannelPlacement | None:
    """Return where channels lie in what was made of them, if there are more of them there."""
    channels = maps.shape[1]
    stride = -(-maps.shape[2] // max(1, made.shape[2]))
    taken = maps[:, :, ::stride, ::stride]
    if made.shape[1] <= channels or made.shape[2:] != taken.shape[2:]:
        return None
    some = [one.flatten(2)[:, :, :_PIXELS] for one in (made, taken)]  # the caller compares all of them
    same = (some[0][:, :, None] == some[1][:, None]).all(3).all(0)  # (C', C)
    places = torch.where(same.any(1), same.int().argmax(1), -1).tolist()
    return ChannelPlacement.at(places, in_channels=channels, stride=stride).to(maps)


def with_placements(model: nn.Module, placements: Mapping[str, ChannelPlacement]) -> nn.Module:
    """Return a copy of a network with these in place of its shortcuts, and a record of it.

    Args:
        model: any network; it is not changed.
        placements: from `find_padded_shortcuts`.
    """
    copied = copy_model(model)
    if not placements:
        return copied
    edits = recorded_edits(model)
    for path, placement in placements.items():
        old = copied.get_submodule(path)
        new = copy_model(placement)
        assert isinstance(new, ChannelPlacement)
        replace_module_(copied, path, new.train(old.training))
        edits.append({"path": path, "kind": "channel_placement", "config": new.config()})
    record_edits_(copied, edits)
    if hasattr(model, "ghostnet_origin"):
        copied.ghostnet_origin = model.ghostnet_origin
    return copied
