"""Which convolutions a network has, in execution order, and what follows each: `ConvUnit` and `find_units`.

The answer comes from the model's graph, in train and in eval mode (auxiliary heads run in one of them only): that of
`torch.fx`, or of a run on an example input (`nn.run_tracing`). Where neither follows the code, a forward pass with
hooks answers, or, without an example, the order of the modules; functional convolutions are not seen there.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from ghostnet.convert.aliases import held_elsewhere
from ghostnet.convert.outputs import answering
from ghostnet.convert.running import Recording, record
from ghostnet.nn.copies import copy_model
from ghostnet.nn.ghost_conv import GhostConv2d
from ghostnet.nn.own_forward import has_own_forward
from ghostnet.nn.run_tracing import trace_run
from ghostnet.nn.tracing import Tracer, trace

NORMS_OF_MAPS = (nn.BatchNorm2d, nn.SyncBatchNorm)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.Sigmoid, nn.Tanh)
FUNCTIONAL_ACTIVATIONS = {F.relu: "relu", torch.relu: "relu", F.relu6: "relu6", F.silu: "silu"}
FUNCTIONAL_ACTIVATIONS |= {F.hardswish: "hardswish", F.gelu: "gelu", torch.relu_: "relu"}
HELD = "held in a list or the like, too, where a replacement would not be seen"
CONSTANT = "ghostnet_constant"  # key in the `meta` of a node
_METHOD_ACTIVATIONS = {"relu": "relu", "relu_": "relu"}
_FUNCTIONAL_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, torch.conv2d}


@dataclass(frozen=True)
class ConvUnit:
    """One convolution of a network and what follows it.

    Args:
        name: module path ("layer1.0.conv1"); for a functional convolution the name of its node.
        norm: path of the `BatchNorm2d` (or a kind of it) that alone reads the convolution's output, else None.
        activation: path of the activation module that alone reads the norm's (or convolution's) output, or
            the name of the functional one ("relu"), else None.
        calls: how often one forward pass runs the convolution (the larger of train and eval mode).
        pointwise: the kernel is 1x1.
        depthwise: one group for each input channel.
        first: the first convolution that runs.
        reason: why it must be left alone, or None.
        activation_dedicated: the activation is a module that nothing else uses, so it may be removed.
        one_pixel: a 1x1 convolution that has maps of one pixel, as far as an example shows it.
        last: it makes what the network answers, as far as a trace shows it.
    """

    name: str
    norm: str | None
    activation: str | None
    calls: int
    pointwise: bool
    depthwise: bool
    first: bool
    reason: str | None
    activation_dedicated: bool = False
    one_pixel: bool = False
    last: bool = False


class _LeafTracer(Tracer):
    """A tracer that keeps convolutions, norms and activations whole, also subclassed and Ghost ones.

    Args:
        childless: keep every module without children whole, as where its code depends on the sizes of maps.
    """

    def __init__(self, *, childless: bool) -> None:
        super().__init__()
        self._childless = childless

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if has_own_forward(m) and not _is_convolution(m):
            return False  # nobody knows what it computes before its code is followed
        if isinstance(m, (_ConvNd, _BatchNorm, nn.Linear, *ACTIVATIONS)) or is_ghost(m):
            return True
        if self._childless and next(m.children(), None) is None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def is_ghost(module: nn.Module) -> bool:
    """Tell whether `module` is a Ghost convolution already."""
    return isinstance(module, GhostConv2d)


def trace_layers(model: nn.Module, example: Tensor | None = None) -> fx.Graph | None:
    """Trace the model in the mode that it is in, or return None where its code cannot be followed.

    Args:
        model: any module; a structural copy is traced, so code in its forward cannot change it.
        example: `(N, C, H, W)`; what `torch.fx` cannot follow is traced by running it on this, and holds for its size.

    Returns:
        A graph whose `call_module` targets are paths in `model`. Modules of the model's own are looked into where that
        can be done; where not, those without children stay whole. Tensors that the code makes of none of the images
        are in `node.meta[CONSTANT]`.
    """
    ways: list[Callable[[nn.Module], fx.Graph]] = [
        functools.partial(trace, _LeafTracer(childless=childless)) for childless in (False, True)
    ]
    if example is not None:
        ways.append(lambda copied: trace_run(_LeafTracer(childless=False), copied, example))
    for way in ways:
        copied = copy_model(model, share_parameters=True)
        try:
            with torch.no_grad():
                graph = way(copied)
        except Exception:  # tracing runs the user's code: whatever it raises means "not traceable"
            continue
        for node in graph.nodes:
            name = str(node.target)
            if node.op == "get_attr" and "." not in name and not hasattr(model, name):
                node.meta[CONSTANT] = getattr(copied, name)  # where fx has put it, and nobody else
        return graph
    return None


def trace_graphs(model: nn.Module, example: Tensor | None = None) -> list[fx.Graph]:
    """Trace the model in train and in eval mode; a mode that cannot be followed is left out.

    Args:
        model: any module.
        example: as for `trace_layers`.

    Returns:
        Up to two graphs, see `trace_layers`.
    """
    modes = [copy_model(model, share_parameters=True).train(training) for training in (True, False)]
    graphs = [trace_layers(mode, example) for mode in modes]
    return [graph for graph in graphs if graph is not None]


def find_units(model: nn.Module, example_input: Tensor | None = None) -> list[ConvUnit]:
    """List every convolution of a model, in execution order, with what follows it.

    Args:
        model: any module; it is not changed.
        example_input: `(N, C, H, W)`, for sizes of maps, and for networks that `torch.fx` cannot trace.

    Returns:
        One unit a convolution; those that never run come last.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> [unit.norm for unit in find_units(model)]
        ['1']
    """
    paths = {name: module for name, module in model.named_modules() if _is_convolution(module)}
    inside = tuple(f"{name}." for name, module in paths.items() if is_ghost(module))
    paths = {name: module for name, module in paths.items() if not name.startswith(inside)}
    graphs = trace_graphs(model, example_input) if "" not in paths else []
    found: dict[str, ConvUnit] = {}
    for graph in graphs:
        for unit in _units_of_graph(graph, model):
            found[unit.name] = _merge(found[unit.name], unit) if unit.name in found else unit
    recording = None if graphs else record(model, example_input, _is_whole)
    if not graphs:
        found = {unit.name: unit for unit in _units_without_graph(model, recording)}
    for name in paths:
        found.setdefault(name, _describe(name, paths[name], calls=0))
    reasons = _reasons(model, graphs, set() if recording is None else recording.borrowed)
    dots = _of_one_pixel(model, [name for name, unit in found.items() if unit.pointwise], example_input)
    units = [
        replace(
            unit,
            reason=reasons(unit),
            one_pixel=unit.name in dots,
            norm=None if reasons.shares_values(unit.norm) else unit.norm,
        )
        for unit in found.values()
    ]
    last = set().union(*(answering(graph, model) for graph in graphs))
    return [replace(unit, first=index == 0, last=unit.name in last) for index, unit in enumerate(units)]


def _of_one_pixel(model: nn.Module, names: Collection[str], example_input: Tensor | None) -> set[str]:
    """Return which modules give maps of one pixel; none without an example, or where it does not run."""
    if example_input is None or not names:
        return set()
    areas: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            areas[name] = max(areas.get(name, 0), output[0, 0].numel())

    copied = copy_model(model, share_parameters=True).eval()
    for name in names:
        copied.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: note(name, output)
        )
    try:
        with torch.no_grad():
            copied(example_input[:1].clone())
    except Exception:  # it is the user's code that runs; what is wrong with the example is said elsewhere
        return set()
    return {name for name, area in areas.items() if area == 1}


def _is_convolution(module: nn.Module) -> bool:
    quantised = "quantized" in type(module).__module__ and "Conv" in type(module).__name__
    return isinstance(module, _ConvNd) or quantised or is_ghost(module)


def _describe(name: str, module: nn.Module, **found: object) -> ConvUnit:
    """Build a unit from the module's own settings and what was found around it."""
    kernel_size = getattr(module, "kernel_size", ())
    groups, in_channels = getattr(module, "groups", 1), getattr(module, "in_channels", 1)
    unit = ConvUnit(
        name=name,
        norm=None,
        activation=None,
        calls=1,
        pointwise=tuple(kernel_size) == (1, 1),
        depthwise=groups > 1 and groups == in_channels,
        first=False,
        reason=None,
    )
    return replace(unit, **found)  # type: ignore[arg-type]


def _merge(one: ConvUnit, other: ConvUnit) -> ConvUnit:
    """Keep of two modes' findings only what holds in both."""
    same_norm = one.norm == other.norm
    same = same_norm and one.activation == other.activation
    return replace(
        one,
        norm=one.norm if same_norm else None,
        activation=one.activation if same else None,
        activation_dedicated=same and one.activation_dedicated and other.activation_dedicated,
        calls=max(one.calls, other.calls),
    )


def _units_of_graph(graph: fx.Graph, model: nn.Module) -> Iterator[ConvUnit]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    seen = set()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _FUNCTIONAL_CONVOLUTIONS:
            reason = "a functional convolution: only modules can be replaced"
            yield ConvUnit(f"{node.name}()", None, None, 1, False, False, False, reason)
        if node.op != "call_module" or node.target in seen:
            continue
        module = model.get_submodule(str(node.target))
        if not _is_convolution(module):
            continue
        seen.add(node.target)
        norm, last = None, node
        follower = _only_user(node)
        if follower is not None and _is_norm_of(follower, model, module) and calls[follower.target] == 1:
            norm, last = str(follower.target), follower
        activation, dedicated = _activation_after(last, model, calls)
        yield _describe(
            str(node.target),
            module,
            norm=norm,
            activation=activation,
            activation_dedicated=dedicated,
            calls=calls[node.target],
        )


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def normalises_only(module: nn.Module) -> bool:
    """Tell whether a module is a batch norm of maps and nothing more, as timm's with an activation inside is."""
    return type(module) in NORMS_OF_MAPS and holds_its_values(module)


def holds_its_values(norm: nn.Module) -> bool:
    """Tell whether a norm's scale and offset are its own parameters, not made of others (masks, parametrisations)."""
    return {"weight", "bias"} <= norm._parameters.keys()


def _fits(norm: nn.Module, convolution: nn.Module) -> bool:
    """Tell whether a module normalises a convolution's maps first of all."""
    if not isinstance(norm, NORMS_OF_MAPS) or has_own_forward(norm) or not holds_its_values(norm):
        return False
    return norm.num_features == getattr(convolution, "out_channels", None)


def _is_norm_of(node: fx.Node, model: nn.Module, convolution: nn.Module) -> bool:
    return node.op == "call_module" and _fits(model.get_submodule(str(node.target)), convolution)


def _activation_after(node: fx.Node, model: nn.Module, calls: Counter) -> tuple[str | None, bool]:
    """Name the activation that alone reads `node`, and tell whether it is a module of its own."""
    follower = _only_user(node)
    if follower is None:
        return None, False
    if follower.op == "call_module" and isinstance(model.get_submodule(str(follower.target)), ACTIVATIONS):
        return str(follower.target), calls[follower.target] == 1
    if follower.op == "call_function":
        return FUNCTIONAL_ACTIVATIONS.get(follower.target), False  # type: ignore[arg-type]
    if follower.op == "call_method":
        return _METHOD_ACTIVATIONS.get(str(follower.target)), False
    return None, False


def _units_without_graph(model: nn.Module, recording: Recording | None) -> list[ConvUnit]:
    """Find the units in a recorded forward pass, or by module order where there is none."""
    if recording is None:
        leaves = [name for name, module in model.named_modules() if _is_whole(module)]
        return [
            _unit_in_line(model, _in_sequence(model, leaves[index : index + 3]))
            for index, name in enumerate(leaves)
            if _is_convolution(model.get_submodule(name))
        ]
    counts = Counter(name for name, _, _ in recording.calls)
    units = {}
    for name, _, output in recording.calls:
        if name not in units and _is_convolution(model.get_submodule(name)):
            line, last = [name], output
            while len(line) < 3 and last not in recording.read:
                readers = [(reader, result) for reader, source, result in recording.calls if source == last]
                # an activation in place returns its input, so that what follows seems to read twice
                if not readers or (len(readers) > 1 and readers[0][1] != last) or counts[readers[0][0]] != 1:
                    break
                line.append(readers[0][0])
                last = readers[0][1]
            units[name] = replace(_unit_in_line(model, line), calls=counts[name])
    return list(units.values())


def _is_whole(module: nn.Module) -> bool:
    return _is_convolution(module) or not list(module.children())


def _in_sequence(model: nn.Module, line: list[str]) -> list[str]:
    """Keep of modules that are registered one after the other those that surely run so."""
    parent = model.get_submodule(line[0].rpartition(".")[0])
    runs_in_order = type(parent).forward is nn.Sequential.forward and not has_own_forward(parent)
    return line if runs_in_order else line[:1]


def _unit_in_line(model: nn.Module, line: list[str]) -> ConvUnit:
    """Read norm and activation off a line of modules that follow each other within one parent."""
    convolution, norm = model.get_submodule(line[0]), None
    rest = [name for name in line[1:] if name.rpartition(".")[0] == line[0].rpartition(".")[0]]
    if rest and _fits(model.get_submodule(rest[0]), convolution):
        norm = rest.pop(0)
    activates = rest and isinstance(model.get_submodule(rest[0]), ACTIVATIONS)
    activation = rest[0] if activates and not has_own_forward(model.get_submodule(rest[0])) else None
    # without a graph nobody can tell that nothing else uses the activation, so it counts as shared
    return _describe(line[0], convolution, norm=norm, activation=activation)


class _reasons:  # noqa: N801 - used as a function that remembers the model's shared parts
    """Say why a unit must be left alone, from facts about the whole model."""

    def __init__(self, model: nn.Module, graphs: list[fx.Graph], borrowed: set[str]) -> None:
        self.model, self.borrowed = model, borrowed
        every_path = list(model.named_modules(remove_duplicate=False))
        self.registered = Counter(id(module) for _, module in every_path)
        self.held = held_elsewhere(model)
        self.owners = Counter(
            id(value)
            for module in model.modules()
            for value in module._parameters.values()
            if value is not None
        )
        self.attributes = {
            str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"
        }

    def __call__(self, unit: ConvUnit) -> str | None:
        if unit.reason is not None:
            return unit.reason
        module = self.model.get_submodule(unit.name)
        if unit.name == "":
            return "the model itself is a convolution: put it into an nn.Sequential"
        if is_ghost(module):
            return "a Ghost convolution already"
        return self._reason_of_kind(module) or self._reason_of_use(unit, module)

    def _reason_of_kind(self, module: nn.Module) -> str | None:
        if parametrize.is_parametrized(module):
            return "its weight is parametrized (weight_norm, spectral_norm, ...): remove that first"
        if isinstance(getattr(module, "weight", None), Tensor) and "weight" not in module._parameters:
            return "its weight is computed by a hook (weight_norm, spectral_norm, pruning): remove that first"
        if "quantized" in type(module).__module__:
            return f"a quantised convolution ({type(module).__name__})"
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return f"a transposed convolution ({type(module).__name__})"
        if type(module) is not nn.Conv2d:
            return f"a {type(module).__name__}, not a plain nn.Conv2d"
        if has_own_forward(module):
            return "its forward was replaced on the instance, which a replacement would lose"
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            return "it has hooks, which a replacement would lose"
        return None

    def shares_values(self, path: str | None) -> bool:
        """Tell whether a parameter of a layer is another module's, too: changing it would change the other."""
        return path is not None and any(
            self.owners[id(value)] > 1 for value in self.model.get_submodule(path).parameters()
        )

    def _reason_of_use(self, unit: ConvUnit, module: nn.Module) -> str | None:
        if self.registered[id(module)] > 1:
            return "the same module is registered at two paths"
        if unit.name in self.held:
            return HELD
        if self.shares_values(unit.name):
            return "its weight is shared with another module"
        read = {f"{unit.name}.weight", f"{unit.name}.bias"} & self.attributes
        if read or unit.name in self.borrowed:
            return "its weight is read as an attribute elsewhere"
        if unit.calls != 1:
            return "it never runs" if unit.calls == 0 else f"one forward pass calls it {unit.calls} times"
        return None
