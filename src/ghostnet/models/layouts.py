"""Other libraries' names and shapes for the parameters of GhostNet and its successors, in both directions.

One table a layout says how a name of ours is called there; the way back is its inversion, so that no name can be lost
on the way. "timm" is also the layout of the authors' PyTorch checkpoints; "paddle" is PaddleClas's GhostNet, which
has the form `rounding="paper"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from ghostnet.errors import InputError, unknown_name

Rules = tuple[tuple[str, str], ...]

# timm's stages: which of the 16 blocks each of them starts with
_STAGE_STARTS = (0, 1, 2, 3, 4, 5, 6, 11, 12)


def _timm_block(match: re.Match[str]) -> str:
    index = int(match[1])
    stage = max(number for number, start in enumerate(_STAGE_STARTS) if start <= index)
    return f"blocks.{stage}.{index - _STAGE_STARTS[stage]}."


_TIMM: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^blocks\.(\d+)\.", _timm_block),  # before `last`, which timm counts as a block
    (r"^stem\.0\.", "conv_stem."),
    (r"^stem\.1\.", "bn1."),
    (r"^last\.0\.", "blocks.9.0.conv."),
    (r"^last\.1\.", "blocks.9.0.bn1."),
    (r"^head\.0\.", "conv_head."),
    (r"\.squeeze_excite\.(reduce|expand)\.", r".se.conv_\1."),
    (r"\.expand\.", ".ghost1."),
    (r"\.project\.", ".ghost2."),
    (r"\.body\.", "."),
    (r"\.attention\.layers\.", ".short_conv."),
    (r"\.primary_conv\.", ".primary_conv.0."),
    (r"\.primary_norm\.", ".primary_conv.1."),
    (r"\.cheap_operation\.conv\.", ".cheap_operation.0."),
    (r"\.cheap_norm\.", ".cheap_operation.1."),
    (r"\.downsample\.0\.", ".conv_dw."),
    (r"\.downsample\.1\.", ".bn_dw."),
    (r"\.downsample\.", ".dw."),
)
# branches that are trained and fused: V3 names each by its kind, RepGhost has one of each in a Sequential
_TIMM_V3: Rules = (
    (r"\.(primary|cheap|dw)\.branches\.(\d+)\.", r".\1_rpr_conv.\2."),
    (r"\.(primary|cheap|dw)\.(scale|skip)\.", r".\1_rpr_\2."),
    (r"(_rpr_.*)\.norm\.", r"\1.bn1."),
)
_TIMM_REPGHOST: Rules = (
    (r"\.primary\.", ".primary_conv."),
    (r"\.cheap\.branches\.0\.conv\.", ".cheap_operation.0."),
    (r"\.cheap\.branches\.0\.norm\.", ".cheap_operation.1."),
    (r"\.cheap\.skip\.", ".fusion_bn.0."),
)
_PADDLE: Rules = (
    (r"^stem\.0\.", "conv1._conv."),
    (r"^stem\.1\.", "conv1._batch_norm."),
    (r"^last\.0\.", "conv_last._conv."),
    (r"^last\.1\.", "conv_last._batch_norm."),
    (r"^head\.0\.", "fc_0._conv."),
    (r"^head\.1\.", "fc_0._batch_norm."),
    (r"^classifier\.", "fc_1."),
    (r"^blocks\.(\d+)\.", r"_ghostbottleneck_\1."),
    (r"\.squeeze_excite\.reduce\.", ".se_block.squeeze."),
    (r"\.squeeze_excite\.expand\.", ".se_block.excitation."),
    (r"\.expand\.", ".ghost_module_1."),
    (r"\.project\.", ".ghost_module_2."),
    (r"\.primary_conv\.", ".primary_conv._conv."),
    (r"\.primary_norm\.", ".primary_conv._batch_norm."),
    (r"\.cheap_operation\.conv\.", ".cheap_operation._conv."),
    (r"\.cheap_norm\.", ".cheap_operation._batch_norm."),
    (r"\.downsample\.0\.", ".depthwise_conv._conv."),
    (r"\.downsample\.1\.", ".depthwise_conv._batch_norm."),
    (r"\.shortcut\.0\.", ".shortcut_depthwise._conv."),
    (r"\.shortcut\.1\.", ".shortcut_depthwise._batch_norm."),
    (r"\.shortcut\.2\.", ".shortcut_conv._conv."),
    (r"\.shortcut\.3\.", ".shortcut_conv._batch_norm."),
    (r"\.running_mean$", "._mean"),
    (r"\.running_var$", "._variance"),
)
_PADDLE_LINEAR = re.compile(r"(^fc_1|\.se_block\.(squeeze|excitation))\.weight$")


@dataclass(frozen=True)
class Layout:
    """A way to name the parameters.

    Attributes:
        marker: a name that files of this layout have and others have not.
        counts_batches: whether batch norms keep `num_batches_tracked`.
    """

    marker: str
    counts_batches: bool


LAYOUTS = {
    "ghostnet": Layout("stem.0.weight", True),
    "timm": Layout("conv_stem.weight", True),
    "paddle": Layout("conv1._conv.weight", False),
}


def layout_of(names: Iterable[str]) -> str | None:
    """Return the layout that a file's names are of, or None."""
    known = set(names)
    return next((layout for layout, entry in LAYOUTS.items() if entry.marker in known), None)


def names_in(layout: str, names: Iterable[str]) -> dict[str, str]:
    """Return, for names of our parameters and buffers, their names in a layout.

    Args:
        layout: a key of `LAYOUTS`.
        names: a GhostNet's state dict, or that of a successor.

    Raises:
        InputError: an unknown layout.

    Example:
        >>> names_in("timm", ["blocks.7.expand.primary_conv.weight"])
        {'blocks.7.expand.primary_conv.weight': 'blocks.6.1.ghost1.primary_conv.0.weight'}
    """
    if layout not in LAYOUTS:
        raise unknown_name("layout", layout, LAYOUTS)
    ours = list(names)
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = []
    if layout == "timm":
        added = any(".project.primary.0." in name for name in ours)
        rules = [*_TIMM, *(_TIMM_REPGHOST if added else _TIMM_V3)]
    if layout == "paddle":
        rules = list(_PADDLE)
    found = {}
    for name in ours:
        if name.endswith("num_batches_tracked") and not LAYOUTS[layout].counts_batches:
            continue
        theirs = name
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        found[name] = theirs
    return found


def to_layout(model: nn.Module, layout: str) -> dict[str, Tensor]:
    """Return a network's state dict as another library names and shapes it.

    Args:
        model: a GhostNet of the zoo, or a successor (not fused).
        layout: "timm" (also the authors' PyTorch code) or "paddle" (for `rounding="paper"`).

    Raises:
        InputError: an unknown layout, or a network that it cannot hold.

    Example:
        >>> from ghostnet.models import create_model
        >>> "conv_stem.weight" in to_layout(create_model("ghostnet_050"), "timm")
        True
    """
    state = model.state_dict()
    if LAYOUTS["ghostnet"].marker not in state:
        raise InputError(f"{type(model).__name__} is no GhostNet of the zoo; its names have no other layout")
    if getattr(model, "ghostnet_edits", None):
        raise InputError("a converted or fused network has no other layout; map it before it is converted")
    _check_form(state, layout)
    names = names_in(layout, state)
    result = {theirs: state[ours].detach().clone() for ours, theirs in names.items()}
    if layout == "paddle":
        result = {name: _paddle_shaped(name, value) for name, value in result.items()}
    return result


def _check_form(state: dict[str, Tensor], layout: str) -> None:
    """Raise where a layout has no place for a parameter."""
    paper = "head.1.weight" in state
    if layout == "paddle" and not paper:
        raise InputError(
            "PaddleClas's GhostNet has the TensorFlow form; build the network with rounding='paper' for it"
        )
    if layout == "timm" and paper:
        raise InputError(
            "timm's GhostNet has the PyTorch form; build the network with rounding='torch' for it"
        )


def from_layout(tensors: dict[str, Tensor], layout: str, ours: Iterable[str]) -> dict[str, Tensor]:
    """Return another library's tensors under our names; what we do not know keeps its name.

    Args:
        tensors: as read from the file.
        layout: `layout_of(tensors)`.
        ours: the names of the network that is to be filled.
    """
    if layout == "timm":
        tensors = _timm_cleaned(tensors)
    back = {theirs: name for name, theirs in names_in(layout, ours).items()}
    if layout == "paddle":
        tensors = {name: _from_paddle_shape(name, value) for name, value in tensors.items()}
    return {back.get(name, name): value for name, value in tensors.items()}


def _timm_cleaned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo what the authors' V3 checkpoints have besides: counters of a profiler, and `bn` for `bn1` in branches."""
    return {
        re.sub(r"(_rpr_.*\.)bn\.", r"\1bn1.", name): value
        for name, value in tensors.items()
        if not name.endswith(("total_ops", "total_params"))
    }


def _paddle_shaped(name: str, value: Tensor) -> Tensor:
    """Paddle's linear layers hold (in, out), and its squeeze-excite is made of linear layers."""
    return value.flatten(1).T.contiguous() if _PADDLE_LINEAR.search(name) else value


def _from_paddle_shape(name: str, value: Tensor) -> Tensor:
    if not _PADDLE_LINEAR.search(name) or value.dim() != 2:
        return value
    turned = value.T.contiguous()
    return turned if name.startswith("fc_1") else turned[:, :, None, None]
