"""Initialise a converted network from the dense one, layer by layer: `initialise_from_dense_`.

In execution order each layer's filter bank is refitted, on the inputs that the already converted network
gives, to
the dense network's outputs; then filters are matched, primary and cheap filters alternate in closed form,
and the
layer's batch norm takes the fitted maps' statistics. Where a batch norm feeds an addition, the layer also
makes up
for the error that the other summand carries. No labels, no gradients. Left out: choosing layers,
replacing modules.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostnet.convert import fit
from ghostnet.convert.graph import ConvUnit, is_ghost
from ghostnet.convert.matching import match
from ghostnet.errors import InputError
from ghostnet.nn import GhostConv2d

Pairs = list[tuple[Tensor, Tensor]]
_MOST_PARTNERS = 10  # candidates for each map whose pair is tried with alternation
_PAIR_BUDGET = 8e10  # multiplications of all these trials in one layer
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted: rounds of alternation, relative ridge, largest Gram matrix (columns), its
    refit's.
    """

    rounds: int = 6
    ridge: float = 1e-6
    max_gram: int = 1700
    max_refit: int = 4700


@torch.no_grad()
def initialise_from_dense_(
    dense_model: nn.Module,
    ghost_model: nn.Module,
    units: Sequence[ConvUnit],
    calibration_batches: Sequence[Tensor] | None,
    *,
    rounds: int = 6,
    ridge: float = 1e-6,
    max_gram: int = 1700,
) -> dict[str, float]:
    """Set the weights and batch norms of all Ghost convolutions of `ghost_model` from the dense network.

    Args:
        dense_model: the trained network.
        ghost_model: a copy in which each unit's convolution is a linear `GhostConv2d`; changed in place.
        units: the converted layers in execution order.
        calibration_batches: unlabelled `(N, C, H, W)` inputs, or None for a fit that assumes white inputs.
        rounds: of alternation between primary and cheap filters.
        ridge: relative to the mean power of the inputs, raised where images are few; draws the filters
            to the dense ones.
        max_gram: largest Gram matrix (columns); larger layers are fitted on their output maps only.

    Returns:
        For each unit the relative error of its outputs (0 is exact), weighted as batch norm weights them.

    Raises:
        InputError: `rounds` or `ridge` is negative, or there are no calibration images.
    """
    if rounds < 0 or ridge < 0:
        raise InputError(f"`rounds` (={rounds}) and `ridge` (={ridge}) must not be negative; use 6 and 1e-6.")
    if calibration_batches is not None and not calibration_batches:
        raise InputError(
            "`calibration_batches` is empty; give at least one batch, or None to convert without data."
        )
    options = FitOptions(rounds, ridge, max_gram)
    modes = [(m, m.training) for model in (dense_model, ghost_model) for m in model.modules()]
    dense_model.eval()
    ghost_model.eval()
    try:
        source = _source(dense_model, ghost_model, calibration_batches)
        return {unit.name: _initialise(unit, dense_model, ghost_model, source, options) for unit in units}
    finally:
        for module, training in modes:
            module.training = training


def _initialise(
    unit: ConvUnit,
    dense_model: nn.Module,
    ghost_model: nn.Module,
    source: _Hooks | _Traced | None,
    options: FitOptions,
) -> float:
    """Fit one unit and return its error."""
    convolution, ghost = dense_model.get_submodule(unit.name), ghost_model.get_submodule(unit.name)
    if not isinstance(ghost, GhostConv2d) or not isinstance(convolution, nn.Conv2d):
        raise InputError(f"`{unit.name}` is no converted convolution; give the units that were replaced.")
    if ghost.primary_conv.out_channels == convolution.out_channels:
        _copy(convolution, ghost.primary_conv)
        return 0.0
    norm = None if unit.norm is None else ghost_model.get_submodule(unit.norm)
    pairs = None if source is None or convolution.groups > 1 else source.pairs(unit)
    return _LayerFit(convolution, ghost, norm, pairs, options).run()


def _copy(convolution: nn.Conv2d, primary: nn.Conv2d) -> None:
    primary.weight.copy_(convolution.weight)
    if primary.bias is not None and convolution.bias is not None:
        primary.bias.copy_(convolution.bias)


class _LayerFit:
    """The fit of one layer; `run` writes the weights."""

    def __init__(
        self,
        convolution: nn.Conv2d,
        ghost: GhostConv2d,
        norm: nn.Module | None,
        pairs: Pairs | None,
        options: FitOptions,
    ) -> None:
        self.convolution, self.ghost, self.pairs, self.options = convolution, ghost, pairs, options
        self.norm = norm if isinstance(norm, nn.BatchNorm2d) else None
        self.cheap = cheap_convolution(ghost)
        self.size = self.cheap.kernel_size[0]
        self.sources = ghost_sources(ghost)
        self.centred = pairs is not None and (self.norm is not None or ghost.primary_conv.bias is not None)

    def run(self) -> float:
        """Fit, write, and return the relative error."""
        if self.convolution.groups > 1:
            return self._grouped()
        if fit.patch_columns(self.convolution, self.size) > self.options.max_gram:
            return self._on_maps()
        moments = self._moments(self.size)
        ridge = moments.scaled_ridge(self.options.ridge)
        filters = fit.refit(moments, ridge)
        windows, against = moments.windows(filters)
        errors = fit.fit_errors(moments.target_power, windows, against)
        weights = self._weights(moments.target_power)
        own = self._own(moments, filters) * weights
        costs = self._after_one_round(moments, filters, errors * weights, own, weights)
        heads, ghosts = match(costs, own, self.sources)
        groups = fit.Groups(heads, ghosts, self.sources, weights)
        primary = filters[heads]
        for turn in range(self.options.rounds + 1):
            cheap = fit.best_cheap(moments, primary, self.sources, ghosts)
            if turn == self.options.rounds:
                break
            primary = fit.best_primary(moments, primary, cheap, groups, ridge)
        return self._write(moments, primary, cheap, groups, moments.windows(primary))

    def _moments(self, size: int) -> fit.Moments:
        if self.pairs is None:
            return fit.white_moments(self.convolution, size)
        positions = sum(target[:, 0].numel() for _, target in self.pairs)
        return fit.patch_moments(
            self.pairs, self.convolution, size, centred=self.centred, positions=positions
        )

    def _after_one_round(
        self, moments: fit.Moments, filters: Tensor, costs: Tensor, own: Tensor, weights: Tensor
    ) -> Tensor:
        """Lower the costs of the most promising pairs to what they are after one round of alternation.

        Only for ratio 2, where a pair's cost depends on no third map; a budget limits the pairs.
        """
        outputs, columns = filters.shape
        each = min(outputs - 1, _MOST_PARTNERS, int(_PAIR_BUDGET / (outputs * columns**3)))
        if self.options.rounds == 0 or each < 1 or len(set(self.sources.tolist())) * 2 != outputs:
            return costs
        total = costs + own[:, None]
        best = torch.minimum(total, total.T).fill_diagonal_(float("inf"))
        near = best.topk(each, largest=False).indices
        one, two = torch.arange(outputs).repeat_interleave(each), near.flatten()
        swap = total[one, two] > total[two, one]
        pairs = torch.stack([torch.where(swap, two, one), torch.where(swap, one, two)], 1).unique(dim=0)
        heads, ghosts = pairs.T
        slots = torch.arange(len(pairs))
        groups = fit.Groups(heads, ghosts, slots, weights)
        cheap = fit.best_cheap(moments, filters[heads], slots, ghosts)
        ridge = moments.scaled_ridge(self.options.ridge)
        primary = fit.best_primary(moments, filters[heads], cheap, groups, ridge)
        windows, against = moments.windows(primary)
        centre = moments.centre
        reached = windows[:, centre, centre] - 2 * against[slots, centre, heads] + moments.target_power[heads]
        wanted = against[slots, :, ghosts]
        kernel = fit.solve(windows, wanted[..., None], 1e-9)[..., 0]
        served = moments.target_power[ghosts] - (kernel * wanted).sum(1)
        joint = reached.clamp_min(0.0) * weights[heads] + served.clamp_min(0.0) * weights[ghosts]
        lowered = costs.clone()
        lowered[heads, ghosts] = torch.minimum(costs[heads, ghosts], joint - own[heads])
        return lowered

    def _own(self, moments: fit.Moments, filters: Tensor) -> Tensor:
        """Squared error of each target as a primary map."""
        centre = moments.centre
        power = ((filters @ moments.gram[centre, centre]) * filters).sum(1)
        error = moments.target_power - 2 * (filters * moments.cross[centre].T).sum(1) + power
        return error.clamp_min(0.0)

    def _weights(self, power: Tensor) -> Tensor:
        """Importance of each output channel: gamma^2 / variance of its batch norm."""
        if self.norm is None or self.norm.running_var is None:
            return torch.ones_like(power)
        weights = (self.norm.running_var.double() + self.norm.eps).reciprocal()
        if self.norm.weight is not None:
            weights = weights * self.norm.weight.double().square()
        return weights + 1e-6 * weights.mean() + 1e-30

    def _on_maps(self) -> float:
        """Fit a layer whose patch Gram is too large: refit where that is affordable, then windows of
        maps.
        """
        count, outputs = self.convolution.weight[0].numel(), self.convolution.out_channels
        if self.pairs is None:
            return self._grouped()
        filters = self.convolution.weight.detach().flatten(1).double()
        if count <= self.options.max_refit:
            moments = self._moments(1)
            filters = fit.refit(moments, moments.scaled_ridge(self.options.ridge))
        maps = fit.map_windows(self.pairs, self.convolution, filters, self.size, centred=self.centred)
        weights = self._weights(maps.target_power)
        errors = fit.fit_errors(maps.target_power, maps.windows, maps.against)
        centre = self.size**2 // 2
        reached = maps.windows[:, centre, centre] - 2 * maps.against[range(outputs), centre, range(outputs)]
        own = (reached + maps.target_power).clamp_min(0.0)
        heads, ghosts = match(errors * weights, own * weights, self.sources)
        windows, against = maps.windows[heads], maps.against[heads]
        chosen = against[self.sources, :, ghosts]
        cheap = fit.solve(windows[self.sources], chosen[..., None], 1e-9)[..., 0]
        groups = fit.Groups(heads, ghosts, self.sources, weights)
        return self._write(maps.only(heads), filters[heads], cheap, groups, (windows, against))

    def _grouped(self) -> float:
        """Keep filters in their groups and serve ghosts by scaled copies: all that weights alone can say."""
        weight = self.convolution.weight.detach().flatten(1).double()
        outputs, slots = len(weight), self.ghost.primary_conv.out_channels
        heads = torch.arange(slots)
        if self.convolution.groups > 1:
            each, kept = outputs // self.convolution.groups, slots // self.convolution.groups
            heads = (torch.arange(slots) // kept) * each + torch.arange(slots) % kept
        rest = torch.ones(outputs, dtype=torch.bool)
        rest[heads] = False
        ghosts = rest.nonzero()[:, 0]
        first, second = weight[heads[self.sources]], weight[ghosts]
        same = (
            heads[self.sources] * self.convolution.groups // outputs
            == ghosts * self.convolution.groups // outputs
        )
        scale = (first * second).sum(1) / first.square().sum(1).clamp_min(1e-30) * same
        cheap = torch.zeros(len(ghosts), self.size**2, dtype=torch.float64)
        cheap[:, self.size**2 // 2] = scale
        self._write_weights(weight[heads], cheap, heads, ghosts)
        error = (second - scale[:, None] * first).square().sum() / weight.square().sum().clamp_min(1e-30)
        return float(error.sqrt())

    def _write_weights(self, primary: Tensor, cheap: Tensor, heads: Tensor, ghosts: Tensor) -> None:
        self.ghost.primary_conv.weight.copy_(primary.view_as(self.ghost.primary_conv.weight))
        self.cheap.weight.zero_()  # it may make more maps than are kept
        self.cheap.weight[: len(ghosts)] = cheap.view(-1, *self.cheap.weight.shape[1:]).to(
            self.cheap.weight.dtype
        )
        order = torch.empty(len(heads) + len(ghosts), dtype=torch.long)
        order[torch.cat([heads, ghosts])] = torch.arange(len(order))
        self.ghost.set_channel_order_(order)
        first, second = self.ghost.primary_conv.bias, self.cheap.bias
        bias = None if self.norm is not None and self.pairs is not None else self.convolution.bias
        if first is not None:
            first.copy_(torch.zeros_like(first) if bias is None else bias[heads])
        if second is not None:
            second.zero_()
            if bias is not None:
                carried = cheap.sum(1) * bias[heads[self.sources]]
                second[: len(ghosts)] = (bias[ghosts] - carried).to(second.dtype)

    def _write(
        self,
        moments: fit.Moments | fit.MapMoments,
        primary: Tensor,
        cheap: Tensor,
        groups: fit.Groups,
        maps: tuple,
    ) -> float:
        """Write filters, order, offsets and batch norm; return the weighted relative error."""
        heads, ghosts, (windows, against) = groups.heads, groups.ghosts, maps
        self._write_weights(primary, cheap, heads, ghosts)
        slot = torch.arange(len(heads))
        centre = self.size**2 // 2
        power, hit = torch.empty_like(moments.target_power), torch.empty_like(moments.target_power)
        power[heads], hit[heads] = windows[:, centre, centre], against[slot, centre, heads]
        power[ghosts] = torch.einsum("gt,gtu,gu->g", cheap, windows[self.sources], cheap)
        hit[ghosts] = (cheap * against[self.sources, :, ghosts]).sum(1)
        mean = torch.empty_like(power)
        means = moments.map_means(primary)
        mean[heads], mean[ghosts] = means[:, centre], (cheap * means[self.sources]).sum(1)
        error = (moments.target_power - 2 * hit + power).clamp_min(0.0) * groups.weights
        if self.centred and self.norm is not None:
            self._set_norm(self.norm, mean, power.clamp_min(0.0), moments.target_mean)
        elif self.centred:
            self._set_bias(moments, cheap, groups, mean)
        return float((error.sum() / (moments.target_power * groups.weights).sum().clamp_min(1e-30)).sqrt())

    def _set_norm(self, norm: nn.BatchNorm2d, mean: Tensor, power: Tensor, target_mean: Tensor) -> None:
        """Give the norm the fitted maps' own statistics, its scale kept and its offset moved by the
        targets' mean.
        """
        if norm.running_mean is None or norm.running_var is None:
            return
        if norm.weight is None or norm.bias is None:
            norm.running_mean.add_(mean - target_mean)
            return
        before = (norm.running_var.double() + norm.eps).sqrt()
        scale = norm.weight.double() / before
        norm.bias.copy_(norm.bias.double() + scale * (target_mean - norm.running_mean.double()))
        norm.weight.copy_(scale * (power + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(power)

    def _set_bias(
        self, moments: fit.Moments | fit.MapMoments, cheap: Tensor, groups: fit.Groups, mean: Tensor
    ) -> None:
        """Give both convolutions the offsets that centre their maps on the targets."""
        offset = moments.target_mean - mean
        primary = offset[groups.heads]
        if self.ghost.primary_conv.bias is not None:
            self.ghost.primary_conv.bias.copy_(primary)
        if self.cheap.bias is not None:
            carried = (cheap * moments.inside).sum(1) * primary[self.sources]
            offset = offset[groups.ghosts] - carried
            self.cheap.bias[: len(offset)] = offset.to(self.cheap.bias.dtype)


def cheap_convolution(ghost: GhostConv2d) -> nn.Conv2d:
    """Return the depthwise convolution inside a linear Ghost convolution.

    Raises:
        InputError: its cheap operation is another one.
    """
    operation = ghost.cheap_operation or nn.Identity()
    found = [m for m in operation.modules() if isinstance(m, nn.Conv2d)]
    if len(found) != 1 or found[0].weight.shape[1] != 1:
        raise InputError("the cheap operation is no depthwise convolution; use init='random' or depthwise.")
    return found[0]


def ghost_sources(ghost: GhostConv2d) -> Tensor:
    """Find which primary map serves each ghost map, by asking the cheap operation itself: `(g,)`."""
    cheap = cheap_convolution(ghost)
    maps, size = ghost.primary_conv.out_channels, cheap.kernel_size[0]
    kept = cheap.weight.clone(), None if cheap.bias is None else cheap.bias.clone()
    cheap.weight.fill_(1.0)
    if cheap.bias is not None:
        cheap.bias.zero_()
    probe = cheap.weight.new_zeros(1, maps, size, size)
    probe[0, :, size // 2, size // 2] = torch.arange(1, maps + 1)
    operation = ghost.cheap_operation or nn.Identity()
    answer = operation(probe)[0, :, size // 2, size // 2]
    cheap.weight.copy_(kept[0])
    if cheap.bias is not None and kept[1] is not None:
        cheap.bias.copy_(kept[1])
    return answer.round().long() - 1


class _Tracer(fx.Tracer):
    """Keeps converted layers whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_ghost(m) or super().is_leaf_module(m, module_qualified_name)


class _Walk:
    """One network evaluated node by node on all batches, so that each layer runs once in the whole
    conversion.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, batches: Sequence[Tensor]) -> None:
        self.model, self.nodes, self.position = model, list(graph.nodes), 0
        self.values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self.batches = batches
        order = {node: place for place, node in enumerate(self.nodes)}
        self.last = {
            node: max((order[user] for user in node.users), default=order[node]) for node in self.nodes
        }

    def advance(self, end: fx.Node) -> None:
        """Run everything before `end`; values that nothing later reads are dropped."""
        while self.nodes[self.position] is not end:
            node = self.nodes[self.position]
            for batch, values in zip(self.batches, self.values, strict=True):
                values[node] = self.run(node, values, batch)
                for value in [old for old in node.all_input_nodes if self.last[old] <= self.position]:
                    values.pop(value, None)
            self.position += 1

    def value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Evaluate a node ahead of its turn, with all that it needs; nothing is kept."""
        if node in values:
            return values[node]
        return self.run(
            node, values | {source: self.value(source, values) for source in node.all_input_nodes}
        )

    def run(self, node: fx.Node, values: dict, batch: Tensor | None = None) -> Any:
        """Evaluate one node."""
        if node.op == "placeholder":
            return batch if node is self.nodes[0] else (node.args[0] if node.args else None)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.model)
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


class _Traced:
    """Inputs and targets of each layer, from both networks walked in step."""

    def __init__(
        self, dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor], graph: fx.Graph
    ) -> None:
        self.dense_model = dense_model
        self.dense, self.ghost = _Walk(dense_model, graph, batches), _Walk(ghost_model, graph, batches)
        self.nodes = {str(node.target): node for node in graph.nodes if node.op == "call_module"}

    def pairs(self, unit: ConvUnit) -> Pairs | None:
        """Inputs in the converted network and what its convolution should give there."""
        node = self.nodes.get(unit.name)
        if node is None or node not in self.dense.nodes[self.dense.position :]:
            return None
        self.dense.advance(node)
        self.ghost.advance(node)
        shortcut = _shortcut(node, unit)
        pairs = []
        for dense, ghost in zip(self.dense.values, self.ghost.values, strict=True):
            target = self.dense.run(node, dense)
            if shortcut is not None and self._known(shortcut, ghost):
                carried = self.dense.value(shortcut, dense), self.ghost.value(shortcut, ghost)
                target = target + self._missing(unit, *carried, target)
            pairs.append((fx.node.map_arg(node.args[0], ghost.__getitem__), target))
        return pairs

    def _known(self, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
        """Whether `node` follows from computed values without a layer that is still to be fitted."""
        if node in values:
            return True
        if node.op == "call_module" and is_ghost(self.ghost.model.get_submodule(str(node.target))):
            return False
        inplace = node.op == "call_method" and str(node.target).endswith("_")
        return not inplace and all(self._known(source, values) for source in node.all_input_nodes)

    def _missing(self, unit: ConvUnit, dense: Tensor, ghost: Tensor, target: Tensor) -> Tensor | float:
        """What the other summand lacks, in units of the convolution's output; 0 where the norm cannot
        make up.
        """
        norm = self.dense_model.get_submodule(str(unit.norm))
        if not isinstance(norm, nn.BatchNorm2d) or dense.shape != target.shape:
            return 0.0
        if norm.weight is None or norm.running_var is None:
            return 0.0
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        usable = scale.abs() > 1e-2 * scale.abs().max()
        inverse = torch.where(usable, scale, torch.ones_like(scale)).reciprocal() * usable
        return (dense - ghost) * inverse[:, None, None]


def _shortcut(node: fx.Node, unit: ConvUnit) -> fx.Node | None:
    """The other summand where the unit's norm alone feeds an addition."""
    users = list(node.users)
    if unit.norm is None or len(users) != 1 or users[0].target != unit.norm or len(users[0].users) != 1:
        return None
    addition = next(iter(users[0].users))
    if addition.target not in _ADDITIONS or len(addition.args) != 2:
        return None
    others = [value for value in addition.args if value is not users[0] and isinstance(value, fx.Node)]
    return others[0] if len(others) == 1 else None


class _Hooks:
    """Inputs and targets of each layer of a network that cannot be traced: whole forward passes with
    hooks.
    """

    def __init__(self, dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor]) -> None:
        self.models, self.batches = (dense_model, ghost_model), batches

    def pairs(self, unit: ConvUnit) -> Pairs | None:
        """Inputs in the converted network and outputs of the dense one."""
        inputs = list(self._record(self.models[1], unit.name, of_input=True))
        targets = list(self._record(self.models[0], unit.name, of_input=False))
        return list(zip(inputs, targets, strict=True)) if inputs and len(inputs) == len(targets) else None

    def _record(self, model: nn.Module, name: str, *, of_input: bool) -> Iterator[Tensor]:
        seen: list[Tensor] = []

        def keep(_module: nn.Module, args: tuple, output: Tensor) -> None:
            seen.append((args[0] if of_input else output).clone())

        handle = model.get_submodule(name).register_forward_hook(keep)
        try:
            for batch in self.batches:
                seen.clear()
                model(batch)
                yield from seen[:1]
        finally:
            handle.remove()


def _source(
    dense_model: nn.Module, ghost_model: nn.Module, batches: Sequence[Tensor] | None
) -> _Hooks | _Traced | None:
    """Choose how layers are observed."""
    if batches is None:
        return None
    try:
        graph = _Tracer().trace(dense_model)
    except Exception:  # fx raises whatever the model's own code raises on a proxy
        return _Hooks(dense_model, ghost_model, batches)
    return _Traced(dense_model, ghost_model, batches, graph)
