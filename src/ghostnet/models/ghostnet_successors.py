"""GhostNetV2, GhostNetV3 and RepGhostNet: GhostNet's layout with other modules, for users who retrain.

V2 (Tang et al. 2022) puts DFC attention on the expanding module from the third bottleneck on. V3 (Liu et al. 2024) is
V2 with parallel branches in training, fused by `nn.fuse_reparameterised`. RepGhostNet (Chen et al. 2022) adds instead
of joining and halves the hidden widths. Layouts as in the published weights; not in the GhostNet paper.
"""

from __future__ import annotations

from torch import nn

from ghostnet.models.ghostnet import TABLE_1, BlockSpec, GhostNet, GhostNetForm
from ghostnet.models.registry import register

_ATTENTION_FROM = 2
_SIZE = (3, 224, 224)

# half of Table 1's hidden widths, but 120 where half of 184 would be 92
_REP_HIDDEN = (8, 24, 36, 36, 60, 120, 100, 120, 120, 240, 336, 336, 480, 480, 480, 480)
_REP_BLOCKS = tuple(
    BlockSpec(row.kernel_size, hidden, row.out, row.squeeze_excite, row.stride)
    for row, hidden in zip(TABLE_1, _REP_HIDDEN, strict=True)
)


def _enter_attended(name: str, default_width: float, module: str, summary: str) -> None:
    """Register one width of GhostNetV2 or V3."""

    def build(
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        width_mult: float = default_width,
        dropout: float = 0.2,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
    ) -> nn.Module:
        form = GhostNetForm(
            ratio=ratio,
            cheap_kernel_size=cheap_kernel_size,
            module=module,
            attention_from=_ATTENTION_FROM,
        )
        return GhostNet(
            form, width_mult=width_mult, num_classes=num_classes, in_chans=in_chans, dropout=dropout
        )

    build.__name__, build.__doc__ = name, summary
    family = "ghostnetv2" if module == "ghost" else "ghostnetv3"
    register(family=family, input_size=_SIZE, num_classes=1000)(build)


def _enter_added(name: str, default_width: float, summary: str) -> None:
    """Register one width of RepGhostNet."""

    def build(
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        width_mult: float = default_width,
        dropout: float = 0.2,
        cheap_kernel_size: int = 3,
    ) -> nn.Module:
        form = GhostNetForm(
            cheap_kernel_size=cheap_kernel_size, blocks=_REP_BLOCKS, last_channels=960, module="add"
        )
        return GhostNet(
            form, width_mult=width_mult, num_classes=num_classes, in_chans=in_chans, dropout=dropout
        )

    build.__name__, build.__doc__ = name, summary
    register(family="repghostnet", input_size=_SIZE, num_classes=1000)(build)


for _name, _width in (("100", 1.0), ("130", 1.3), ("160", 1.6)):
    _enter_attended(f"ghostnetv2_{_name}", _width, "ghost", f"GhostNetV2 {_width}x, with DFC attention.")
for _name, _width in (("050", 0.5), ("100", 1.0), ("130", 1.3), ("160", 1.6)):
    _enter_attended(
        f"ghostnetv3_{_name}", _width, "reparam", f"GhostNetV3 {_width}x, with training branches that fuse."
    )
for _name, _width in (
    *(("050", 0.5), ("058", 0.58), ("080", 0.8), ("100", 1.0)),
    *(("111", 1.11), ("130", 1.3), ("150", 1.5), ("200", 2.0)),
):
    _enter_added(f"repghostnet_{_name}", _width, f"RepGhostNet {_width}x: added, not joined, ghost maps.")
