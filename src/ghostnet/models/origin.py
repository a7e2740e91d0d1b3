"""Where a network comes from: the builder that makes it again, found for saving and called for loading.

A builder is named only if what it makes is the very same network, its edits replayed: the same modules with the same
settings and shapes. Otherwise a network that was changed by hand (`model.maxpool = nn.Identity()`) would be loaded
without the change, fit its weights and answer wrongly. Left out: the weights.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ghostnet.errors import InputError, first_line
from ghostnet.models.registry import create_model
from ghostnet.nn.edits import apply_edits_, recorded_edits

Origin = dict[str, Any]
# what matters in training only; a builder's value for it is as good
_OF_TRAINING = ("training", "momentum", "p", "inplace", "grad_checkpointing")
_DRAWS = ("normal_", "uniform_", "trunc_normal_", "bernoulli_", "exponential_")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SHOWN_BY_SHAPES = ("num_classes",)  # a note of the builder's, which a new classifier leaves as it was


def origin_of(model: nn.Module) -> tuple[Origin | None, str | None]:
    """Find what builds a network again.

    Returns:
        The origin, or None where nothing does; and how the network differs from what its builder makes, where it was
        changed after it was built.
    """
    known = getattr(model, "ghostnet_origin", None)
    if known is not None:
        changed = _change(model, known) if known["library"] in ("ghostnet", "torchvision", "timm") else None
        return (known, None) if changed is None else (None, changed)
    changed = None
    for origin in _candidates(model):
        found = _change(model, origin)
        if found is None:
            return origin, None
        changed = changed or found
    return None, changed


def rebuild(
    origin: Origin | None, path: str, changed: str | None = None, built_by: object = None
) -> nn.Module:
    """Build the network that a saved file's origin names, with fresh weights and without its edits.

    Raises:
        InputError: there is no origin, or nothing here builds it; `path` says where it comes from, `changed` how it
            differed from what its builder makes, `built_by` the code of one's own that built it, which is told and
            not run.
    """
    if origin is None:
        what = "a network of your own class" if changed is None else f"a network that was changed ({changed})"
        builder = built_by if isinstance(built_by, str) else "FILE.py:NAME"
        raise InputError(
            f"{path} holds {what}; pass a fresh one: ghostnet.load(path, model=…), or name what builds it: "
            f"'{builder}={path}'"
        )
    check_origin(origin, path)
    library, name, args = origin["library"], origin["name"], dict(origin["args"])
    if library == "ghostnet.detect":
        raise InputError(f"{path} holds a detector; use ghostnet.detect.load_detector, or `ghostnet detect`")
    if library not in _BUILD:
        raise InputError(f"{path} comes from the library {library!r}, which this ghostnet cannot build")
    build, accepted = _BUILD[library]
    for key, value in args.items():
        if key in _NEVER or (accepted and key not in accepted) or not _is_plain(value):
            raise InputError(
                f"{path} gives {library}'s {name} an argument that no saved network has: {key}={reprlib.repr(value)}"
            )
    try:
        return build(name, args)
    except TypeError as error:
        raise InputError(
            f"{path} holds a network that {library} cannot build: {first_line(error)}"
        ) from error


def check_origin(origin: object, path: str) -> None:
    """Raise unless a file's origin is one by its form, or None.

    Raises:
        InputError: it is not; `path` says where it comes from.
    """
    if origin is None:
        return
    if not isinstance(origin, dict):
        raise damaged(path, "origin", origin)
    for key, kind in (("library", str), ("name", str), ("args", dict)):
        if not isinstance(origin.get(key), kind):
            raise damaged(path, f"origin's {key}", origin.get(key))


def damaged(path: object, part: str, value: object) -> InputError:
    """Build the error for a saved file whose header holds something else than `save` writes."""
    return InputError(
        f"{path} has a damaged header: its {part} is {reprlib.repr(value)}; fetch or save it again"
    )


def _build_timm(name: str, args: dict[str, Any]) -> nn.Module:
    """Build a network of timm with random weights, by a name of its own: no address of a file or a hub, no tag."""
    import timm

    if not (name.isidentifier() and timm.is_model(name)):
        raise InputError(f"timm has no model {name!r}; update timm")
    return timm.create_model(name, pretrained=False, **args)


def _change(model: nn.Module, origin: Origin) -> str | None:
    """Say how a network differs from what its origin and its edits make; None where it does not."""

    def build() -> nn.Module:
        return apply_edits_(rebuild(origin, ""), recorded_edits(model))

    try:
        fresh = _without_weights(build)
    except RuntimeError:  # it computes with its weights while it is built
        with torch.random.fork_rng(devices=[]):
            fresh = build()
    return difference(model, fresh)


def _without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network whose weights take no memory, where that can be done."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"), _Undrawn():
                return build()
        except RuntimeError:  # it computes while it is built, as RegNet does its widths
            with _Undrawn(empty_on_meta=True):
                return build()


class _Undrawn(TorchFunctionMode):
    """Weights without memory need no random numbers; to draw them PyTorch would import its compiler, for seconds.

    Args:
        empty_on_meta: what is made to be filled, as weights are, takes no memory; all other tensors have their values.
    """

    def __init__(self, *, empty_on_meta: bool = False) -> None:
        super().__init__()
        self._empty_on_meta = empty_on_meta

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the tensor that a drawing method was called on, and call everything else."""
        given = dict(kwargs or {})
        drawn = args[0] if args else given.get("tensor")  # the functions of nn.init pass it by name
        if getattr(func, "__name__", "") in _DRAWS and isinstance(drawn, Tensor) and drawn.is_meta:
            return drawn
        if self._empty_on_meta and func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


def difference(model: nn.Module, fresh: nn.Module) -> str | None:
    """Say in what the first of two networks is built otherwise than the second; None where it is not.

    Compares names and types of all modules, their settings but those of training, and the shapes of their tensors.

    Example:
        >>> difference(nn.Sequential(nn.Identity()), nn.Sequential(nn.MaxPool2d(2)))
        '0 is Identity instead of MaxPool2d'
    """
    ours = dict(model.named_modules(remove_duplicate=False))
    theirs = dict(fresh.named_modules(remove_duplicate=False))
    for path, made in theirs.items():
        if path not in ours:
            return f"{path} is missing"
        if type(ours[path]) is not type(made):
            name = path or "the network"
            return f"{name} is {type(ours[path]).__name__} instead of {type(made).__name__}"
        if (setting := _other_setting(ours[path], made)) is not None:
            return f"{path}.{setting}" if path else setting
    added = next((path for path in ours if path not in theirs), None)
    return None if added is None else f"{added} was added"


def _other_setting(ours: nn.Module, theirs: nn.Module) -> str | None:
    if ("forward" in vars(ours)) != ("forward" in vars(theirs)):
        return "forward was replaced"
    if any(bool(getattr(ours, hooks)) != bool(getattr(theirs, hooks)) for hooks in _HOOKS):
        return "forward hooks were added or removed"
    have, made = dict(_settings(ours)), dict(_settings(theirs))
    for name, value in made.items():
        if name not in have or have[name] != value:
            return f"{name} is {have.get(name, 'missing')} instead of {value}"
    added = next(
        (name for name in have if name.startswith(("parameter ", "buffer ")) and name not in made), None
    )
    return None if added is None else f"{added} was added"


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Give the plain attributes of one module, and the shapes of its own tensors."""
    for name, value in vars(module).items():
        ignored = name in _OF_TRAINING or name in _SHOWN_BY_SHAPES or "drop" in name
        if ignored or name.startswith(("_", "ghostnet_")):
            continue
        if _is_plain(value):
            yield name, tuple(value) if isinstance(value, list) else value
        elif inspect.isroutine(value) or isinstance(value, type):
            yield name, value.__qualname__
    for name, parameter in module.named_parameters(recurse=False):
        yield f"parameter {name}", tuple(parameter.shape)
    for name, buffer in module.named_buffers(recurse=False):
        yield f"buffer {name}", tuple(buffer.shape)


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _candidates(model: nn.Module) -> Iterator[Origin]:
    """Give the builders that a network may come from, the likeliest first."""
    if type(model).__module__.startswith("torchvision.models."):
        yield from _torchvision_origins(model)
    configured = getattr(model, "pretrained_cfg", None)
    if type(model).__module__.startswith("timm.") and isinstance(configured, dict):
        architecture = configured.get("architecture")
        if architecture:
            yield from _timm_origins(model, architecture)


def _timm_origins(model: nn.Module, name: str) -> Iterator[Origin]:
    args: dict[str, Any] = {"num_classes": getattr(model, "num_classes", 1000)}
    yield {"library": "timm", "name": name, "args": args}
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None:
        yield {"library": "timm", "name": name, "args": {**args, "in_chans": first.in_channels}}


def torchvision_names() -> list[str]:
    """Return the names of torchvision's networks for classification and segmentation."""
    from torchvision import models

    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def build_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    """Build a network of torchvision with random weights; those that take half a minute to draw are not drawn."""
    from torchvision import models

    if name not in torchvision_names():
        raise InputError(f"torchvision has no model {name!r}; update torchvision")
    if name in models.list_models(module=models.segmentation):
        args = {**args, "weights_backbone": None}  # else it fetches some
    if (
        "init_weights" in inspect.signature(models.get_model_builder(name)).parameters
        or name in _INIT_WEIGHTS
    ):
        args = {**args, "init_weights": False}  # saves half a minute; the weights are loaded anyway
    return models.get_model(name, weights=None, **args)


_INIT_WEIGHTS = ("googlenet", "inception_v3")
_AUXILIARY: tuple[dict[str, Any], ...] = ({}, {"aux_logits": False}, {"aux_loss": True})


# by library: what builds its networks, and the arguments that a saved network may hand to it (none: its own check)
_BUILD: dict[str, tuple[Callable[[str, dict[str, Any]], nn.Module], tuple[str, ...]]] = {
    "ghostnet": (lambda name, args: create_model(name, **args), ()),
    "torchvision": (build_torchvision, ("num_classes", "aux_logits", "aux_loss", "init_weights")),
    "timm": (_build_timm, ("num_classes", "in_chans")),
}
_NEVER = ("weights", "new_head")  # a file that is loaded must not make others be read or fetched


def _torchvision_origins(model: nn.Module) -> Iterator[Origin]:
    """Find the builders that make this very class and, before its edits, these very shapes."""
    from torchvision import models

    replaced = tuple(edit["path"] + "." for edit in recorded_edits(model))
    wanted = _shapes(model, replaced)
    classes = next(
        (s[0] for key, s in reversed(list(wanted.items())) if key.endswith(("weight", "bias"))), 1000
    )
    home = type(model).__module__
    for name in torchvision_names():
        builder = models.get_model_builder(name)
        if builder.__module__ != home:
            continue
        number = {"num_classes": classes}
        for args in (auxiliary | some for auxiliary in _AUXILIARY for some in ({}, number)):
            try:
                candidate = _without_weights(functools.partial(build_torchvision, name, args))
            except (TypeError, ValueError, RuntimeError, NotImplementedError):
                continue
            if type(candidate) is type(model) and _shapes(candidate, replaced) == wanted:
                yield {"library": "torchvision", "name": name, "args": args}


def _shapes(model: nn.Module, left_out: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.startswith(left_out or "\0")
    }
