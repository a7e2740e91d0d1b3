"""Exact rewrites of a trained network for inference: a new network, the same function.

The rewrites are the passes of `passes/`; which of them run is the target's measured set or the caller's choice. They
need the network as a graph, from `torch.fx` or, with an input size, from a run; where neither can follow the code, only
neighbours inside `nn.Sequential` are folded. With an input size the result is compared with the original.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostnet.deploy.compare import (
    RELATIVE_TOLERANCE,
    difference,
    does_not_run,
    outputs,
    random_input,
    same_in_double,
)
from ghostnet.deploy.fixed_padding import with_fixed_padding
from ghostnet.deploy.fold import deployed_ghost, folded, is_foldable, is_ghost
from ghostnet.deploy.manifest import float32_passes, without_float32_passes
from ghostnet.deploy.passes import NEED_SIZES, apply_passes, checked_passes, default_passes
from ghostnet.deploy.passes.in_place import NotFollowedError
from ghostnet.deploy.passes.scale_shift import ScaleShift
from ghostnet.deploy.passes.winograd import WinogradConv2d
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d, ReparamConv2d, fuse_reparameterised
from ghostnet.nn.cheap_operations import AffineOperation, WaveletOperation
from ghostnet.nn.copies import copy_model
from ghostnet.nn.eager import eager_module
from ghostnet.nn.own_forward import has_own_forward
from ghostnet.nn.run_tracing import trace_run
from ghostnet.nn.tracing import TensorProxy, Tracer, trace

PASSES_KEY = "ghostnet_passes"  # of a GraphModule's `meta`, which copies keep: the passes that made it
_BY_RUN = "ghostnet_by_run"  # likewise: whether the graph is that of a run


def optimize(
    model: nn.Module,
    *,
    target: str | None = None,
    passes: Sequence[str] | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Return a faster network that computes the same as `model` in eval mode; `model` is untouched.

    Args:
        model: any module, in any floating type; one in half precision is rewritten in float32 and given back in its
            type.
        target: a key of `TARGETS`, the runtime that it is for: the passes that were measured to be quickest there.
        passes: names of `passes.PASSES` instead; they run in that table's order.
        input_size: shape of one input without the batch; when given, both outputs' floating tensors are all
            compared on random input. "winograd" depends on it, and is left out of a target's own set without it.
            Convolutions that pad by the size of their input (TensorFlow's "SAME"), and code that decides by sizes where
            `torch.fx` cannot follow it, are written for this one, and the result may be right for no other.

    Returns:
        A new network in eval mode (a `torch.fx.GraphModule` where the model traces; where it does not, only batch
        norms inside `nn.Sequential` are folded).

    Raises:
        InputError: `model` is no module, an unknown target or pass, a pass that needs `input_size`, or a model that
            does not run on that size.
        RuntimeError: the results differ by more than 1e-5 of the largest output, in double precision too; nothing is
            returned then.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> any(isinstance(part, nn.BatchNorm2d) for part in optimize(net).modules())
        False
    """
    original = copy_model(eager_module(model, "optimize")).eval()
    narrow = _narrow_type(original)
    original = original.float() if narrow is not None else original
    names = _names(target, passes, sized=input_size is not None)
    if narrow is not None and passes is None:
        names = tuple(without_float32_passes(names))
    if input_size is None:
        result = _rewritten(original, names, None, by_run=False)
    else:
        # the code may make tensors of the type that it was given, which a graph writes down as float32
        by_run = narrow is None
        result = _checked(original, names, input_size, chosen=passes is not None, by_run=by_run)
    return result if narrow is None else result.to(narrow)


def _checked(
    original: nn.Module, names: Sequence[str], input_size: Sequence[int], *, chosen: bool, by_run: bool
) -> nn.Module:
    """Rewrite a network and compare; passes that nobody chose and whose rounding adds up too far are left out.

    So are all, but for norms in sequences, where the graph of a run is what is wrong.
    """
    try:
        example = random_input(original, (2, *input_size))
        # copies run, here and below, since code may keep what it computes for this size
        expected = outputs(copy_model(original), example)
    except Exception as error:  # the user's code may raise anything
        raise does_not_run(input_size, error) from error
    result = _rewritten(original, names, input_size, by_run=by_run)
    off = difference(expected, copy_model(result), example)
    if off > RELATIVE_TOLERANCE and not chosen and float32_passes(passes_of(result)):
        # their rounding is a little more than that of the layers themselves, and a very deep network adds it up
        result = _rewritten(original, without_float32_passes(names), input_size, by_run=by_run)
        off = difference(expected, copy_model(result), example)
    # in a deep network float32's own rounding can be more than the limit; not where a rewrite adds to it
    exact_passes = not float32_passes(passes_of(result))
    if off <= RELATIVE_TOLERANCE or (exact_passes and same_in_double(original, result, example)):
        return result
    if getattr(result, "meta", {}).get(_BY_RUN):
        return _checked(original, names, input_size, chosen=chosen, by_run=False)
    raise RuntimeError(
        f"the optimised network differs by {off:.1e} (limit {RELATIVE_TOLERANCE:.0e}); go without the rewrites "
        "(`optimized=False`, --plain) or name others (`passes`)"
    )


def _narrow_type(model: nn.Module) -> torch.dtype | None:
    """Return the type of a network in half precision, whose rounding would hide what a rewrite does."""
    kinds = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    return next(iter(kinds)) if kinds in ({torch.float16}, {torch.bfloat16}) else None


def _rewritten(
    model: nn.Module, names: Sequence[str], input_size: Sequence[int] | None, *, by_run: bool
) -> nn.Module:
    working = copy_model(model).eval()
    if any(isinstance(module, ReparamConv2d) for module in working.modules()):
        working = fuse_reparameterised(working)  # eight convolutions become one
    example = None if input_size is None else random_input(working, (1, *input_size))
    if example is not None:
        working = with_fixed_padding(working, example)
    graph = traced(working)
    if graph is not None:
        with contextlib.suppress(NotFollowedError):  # raised before anything of the network is changed
            return _by_passes(graph, names, example)
    elif by_run and example is not None and (graph := traced(working, example)) is not None:
        graph.meta[_BY_RUN] = True
        # the code of libraries holds more than the passes were written for
        with contextlib.suppress(Exception):
            return _by_passes(graph, names, example)
    folded_model = _optimized_by_order(working, example) if "fold_batch_norm" in names else working
    return _with_deployed_ghosts(folded_model).eval()


def _by_passes(graph: fx.GraphModule, names: Sequence[str], example: Tensor | None) -> nn.Module:
    by_run = graph.meta.get(_BY_RUN, False)
    rewritten = apply_passes(graph, names, example)
    rewritten.meta |= {PASSES_KEY: list(names), _BY_RUN: by_run}
    return rewritten.eval()


def _names(target: str | None, passes: Sequence[str] | None, *, sized: bool) -> tuple[str, ...]:
    if passes is None:
        return tuple(name for name in default_passes(target) if sized or name not in NEED_SIZES)
    names = checked_passes(passes)
    if not sized and NEED_SIZES & set(names):
        raise InputError(f"pass {min(NEED_SIZES & set(names))!r} reads the sizes of maps; give input_size")
    return names


def passes_of(model: nn.Module) -> list[str] | None:
    """Return the passes that made a network, or None for one that `optimize` did not make from a graph."""
    meta = getattr(model, "meta", None)
    return meta.get(PASSES_KEY) if isinstance(meta, dict) else None


class _Proxy(TensorProxy):
    """Knows `x += y` from `x = x + y`: other names of x see what the first wrote."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(Tracer):
    """Looks into Ghost convolutions and forwards set on instances, but not into layers whose code depends on sizes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if has_own_forward(m):
            return False
        whole = isinstance(m, (AffineOperation, WaveletOperation, WinogradConv2d, ScaleShift))
        return whole or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def traced(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule | None:
    """Return the network as a graph, or None where its code cannot be followed.

    Args:
        model: in evaluation mode.
        example: `(N, C, H, W)` to follow the code by running it on this; without it `torch.fx` follows it.
    """
    if model._forward_hooks or model._forward_pre_hooks:
        return None  # those of the network itself are no part of a graph
    try:
        if example is not None:
            copied = copy_model(model)  # code may keep what it computes
            return fx.GraphModule(copied, trace_run(_Tracer(), copied, example))
        return fx.GraphModule(model, trace(_Tracer(), model))
    except Exception:  # tracing runs arbitrary code on proxies, so anything may be raised
        return None


def _optimized_by_order(model: nn.Module, example: Tensor | None) -> nn.Module:
    """Fold what stands one after the other in an `nn.Sequential`, if the layers run in that order and in no other."""
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    taken_apart = set() if example is None else _run_in_pieces(copy_model(model), example)
    for path, parent in list(model.named_modules()):
        if type(parent) is not nn.Sequential or path in taken_apart:
            continue
        names = list(parent._modules)
        for first, second in itertools.pairwise(names):
            before, after = parent._modules[first], parent._modules[second]
            if before is None or after is None or uses[id(before)] > 1 or uses[id(after)] > 1:
                continue
            if is_foldable(before, after):
                parent._modules[first], parent._modules[second] = folded(before, after), nn.Identity()
    return model


def _run_in_pieces(model: nn.Module, example: Tensor) -> set[str]:
    """Return the paths of the `nn.Sequential`s whose layers other code calls, seen in one forward pass of a copy."""
    running: Counter[str] = Counter()
    found: set[str] = set()
    for path, parent in model.named_modules():
        if type(parent) is not nn.Sequential:
            continue
        parent.register_forward_pre_hook(lambda _module, _args, path=path: running.update([path]))
        parent.register_forward_hook(lambda _module, _args, _result, path=path: running.subtract([path]))

        def inside(_module: nn.Module, _args: object, path: str = path) -> None:
            if not running[path]:
                found.add(path)

        for layer in parent:
            layer.register_forward_pre_hook(inside)
    with torch.no_grad():
        model(example.clone())
    return found


def _with_deployed_ghosts(model: nn.Module) -> nn.Module:
    hooked = model._forward_hooks or model._forward_pre_hooks
    if isinstance(model, GhostConv2d) and is_ghost(model) and not hooked:
        return deployed_ghost(model)
    replaced: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, GhostConv2d) and is_ghost(child):
                if id(child) not in replaced:
                    replaced[id(child)] = deployed_ghost(child)
                parent._modules[name] = replaced[id(child)]
    return model
