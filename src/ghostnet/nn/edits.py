"""The record of replaced modules, and its replay on a fresh network (docs/architecture.md).

A converted network is its origin plus a JSON-able list of edits. Replaying rebuilds the structure; the
weights come from the state dict. Leaves out: what to record (`convert` knows that).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import nn

from ghostnet.checks import is_integer
from ghostnet.errors import InputError, unknown_name
from ghostnet.nn.channel_placement import ChannelPlacement
from ghostnet.nn.ghost_conv import GhostConv2d
from ghostnet.nn.narrow import narrow_like


def _config(edit: dict[str, Any]) -> dict[str, Any]:
    config = edit.get("config")
    if not isinstance(config, dict):
        raise InputError(f"the edit of {edit.get('path')!r} needs a `config` table; it has {sorted(edit)}.")
    return config


def _ghost_conv2d(edit: dict[str, Any], _replaced: nn.Module) -> nn.Module:
    return GhostConv2d.from_config(_config(edit))


_CONV2D_KEYS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups")


def _conv2d(edit: dict[str, Any], _replaced: nn.Module) -> nn.Module:
    config = edit.get("config")
    if not isinstance(config, dict) or set(config) != set(_CONV2D_KEYS):
        raise InputError(f"the conv2d edit of {edit.get('path')!r} needs a `config` of {list(_CONV2D_KEYS)}.")
    if not all(map(is_integer, config.values())):
        raise InputError(f"the conv2d edit of {edit.get('path')!r} must hold integers; it has {config}.")
    return nn.Conv2d(**config, bias=True)


def _channel_placement(edit: dict[str, Any], _replaced: nn.Module) -> nn.Module:
    return ChannelPlacement.from_config(_config(edit))


def _narrow(edit: dict[str, Any], replaced: nn.Module) -> nn.Module:
    config = _config(edit)
    if sorted(config) != ["in_channels", "out_channels"]:
        raise InputError(f"the edit of {edit['path']!r} needs `in_channels` and `out_channels`, not {config}")
    return narrow_like(replaced, config["in_channels"], config["out_channels"])


# what each kind makes of the edit and of the module that it replaces
EDIT_KINDS: dict[str, Callable[[dict[str, Any], nn.Module], nn.Module]] = {
    "ghost_conv2d": _ghost_conv2d,
    "conv2d": _conv2d,
    "identity": lambda _edit, _replaced: nn.Identity(),
    "narrow": _narrow,
    "channel_placement": _channel_placement,
}


def recorded_edits(model: nn.Module) -> list[dict[str, Any]]:
    """Return copies of all edits recorded on a network or on a network inside it, with paths as seen from outside.

    A part of an edited network has no record of its own: there, each module that an edit put in tells of it.

    Example:
        >>> inner = nn.Sequential(nn.Identity())
        >>> record_edits_(inner, [{"path": "0", "kind": "identity"}])
        >>> recorded_edits(nn.Sequential(inner))
        [{'path': '0.0', 'kind': 'identity'}]
    """
    edits = [
        {**edit, "path": f"{name}.{edit['path']}" if name else edit["path"]}
        for name, module in model.named_modules()
        for edit in getattr(module, "ghostnet_edits", [])
    ]
    if hasattr(model, "ghostnet_edits"):
        return edits
    told = {edit["path"] for edit in edits}
    for name, module in model.named_modules():
        edit: Any = getattr(module, "ghostnet_edit", None)
        if edit is not None and name and name not in told:
            edits.append({**edit, "path": name})
    return edits


def record_edits_(model: nn.Module, edits: Sequence[dict[str, Any]]) -> None:
    """Make these the edits of a network: those recorded on networks inside it are taken for among them."""
    for module in model.modules():
        if hasattr(module, "ghostnet_edits"):
            del module.ghostnet_edits
    model.ghostnet_edits = list(edits)  # type: ignore[assignment]
    modules = dict(model.named_modules(remove_duplicate=False))
    for edit in edits:  # of several at one path, the last made the module that is there
        if edit["path"] in modules:
            modules[edit["path"]].ghostnet_edit = edit


def mark_reordered_(model: nn.Module, paths: Collection[str]) -> None:
    """Record of edited layers that they write channels in another order than before; `train.feature_match` asks."""
    for edit in getattr(model, "ghostnet_edits", []):
        if edit["path"] in paths:
            edit["reordered"] = True


def replace_module_(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put `module` at `path` in `model`, in place, and return `model`.

    Args:
        model: any module.
        path: a name from `model.named_modules()`, such as "layer1.0.conv1"; it may lie in an `nn.Sequential`.
        module: what takes the place.

    Raises:
        InputError: `path` is empty or names no submodule.

    Example:
        >>> replace_module_(nn.Sequential(nn.ReLU()), "0", nn.Identity())
        Sequential(
          (0): Identity()
        )
    """
    find_module(model, path)
    parent_path, _, name = path.rpartition(".")
    # not setattr: a container may shadow the name with an attribute of its own
    model.get_submodule(parent_path)._modules[name] = module
    return model


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Return the submodule at `path`.

    Raises:
        InputError: `path` is empty or names no submodule; near names are listed.
    """
    if not path:
        raise InputError(
            "an edit's `path` is empty; the network itself cannot be replaced, name a submodule."
        )
    names = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if path not in names:
        raise unknown_name("module path", path, names)
    return names[path]


def apply_edits_(model: nn.Module, edits: Sequence[dict[str, Any]]) -> nn.Module:
    """Replay `edits` on `model`, in order and in place, and return `model`.

    New modules take the device, floating type and training mode of what they replace; their weights are
    random until a state dict is loaded.

    Args:
        model: the network as its origin builds it.
        edits: `{"path": …, "kind": …}`, with a `"config": {…}` for "ghost_conv2d", "conv2d" (fused branches) and
            "narrow" (`in_channels`, `out_channels`: what pruning left) and "channel_placement", and none for
            "identity".

    Raises:
        InputError: an edit without path or kind, an unknown kind or path, or a bad config.

    Example:
        >>> apply_edits_(nn.Sequential(nn.ReLU()), [{"path": "0", "kind": "identity"}])
        Sequential(
          (0): Identity()
        )
    """
    for edit in edits:
        if not isinstance(edit, dict) or "path" not in edit or "kind" not in edit:
            raise InputError(
                f"edit {edit!r} needs `path` and `kind`; take the list that `ghostify` recorded."
            )
        if edit["kind"] not in EDIT_KINDS:
            raise unknown_name("edit kind", edit["kind"], EDIT_KINDS)
        replaced = find_module(model, edit["path"])
        module = EDIT_KINDS[edit["kind"]](edit, replaced).train(replaced.training)
        # a shortcut has none itself
        near = itertools.chain(replaced.parameters(), model.parameters())
        parameter = next((item for item in near if item.is_floating_point()), None)
        if parameter is not None:
            module = module.to(device=parameter.device, dtype=parameter.dtype)
        replace_module_(model, edit["path"], module)
    return model
