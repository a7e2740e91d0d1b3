"""What a conversion did to each convolution, and what it saved: `ConversionReport`.

Left out: accuracy and latency; they need images and a device (`train.evaluate`, `deploy.benchmark`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ghostnet.columns import aligned


@dataclass(frozen=True)
class LayerReport:
    """What was done to one convolution.

    Args:
        name: its module path.
        action: "ghost", "pruned" or "kept".
        reason: why it was kept, or a remark on how it was converted.
        params_before: parameters of the convolution.
        params_after: those of what stands there now (in GhostNet form its inner norms are among them).
        macs_before: multiply-accumulates for one image, None if no input size is known.
        macs_after: the same after the conversion.
        reconstruction_error: root of the squared error of its maps over their variance, as its batch norm weights
            them, None unless `init="dense"` or the pruning method reconstructs; there it is the squared error over the
            variance, without the root, of the layer that reads the pruned one.
    """

    name: str
    action: str
    reason: str | None
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    reconstruction_error: float | None


@dataclass(frozen=True)
class ConversionReport:
    """What `ghostify` or `prune` did: a line for each convolution and the totals; `print` it for a table.

    Args:
        layers: one `LayerReport` a convolution, in execution order.
        params_before: parameters of the whole network.
        params_after: the same after the conversion.
        macs_before: multiply-accumulates of the whole network for one image, None if no input size is known.
        macs_after: the same after the conversion.
        input_size: `(C, H, W)` that the MACs hold for, or None.
        seconds: how long the conversion took.
        settings: ratio (of each converted layer by name, where they differ), cheap_kernel_size, init, form, and with
            dense weights whether images were looked at (calibrated); for pruning method and macs.
    """

    layers: tuple[LayerReport, ...]
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    input_size: tuple[int, ...] | None
    seconds: float
    settings: dict[str, Any]

    @property
    def converted(self) -> list[str]:
        """Names of the layers that became Ghost convolutions or were pruned."""
        return [layer.name for layer in self.layers if layer.action != "kept"]

    @property
    def macs_ratio(self) -> float | None:
        """MACs after over MACs before, None if no input size is known."""
        if not self.macs_before or self.macs_after is None:
            return None
        return self.macs_after / self.macs_before

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        header = ("layer", "action", "params", "after", "MACs", "after", "error", "remark")
        rows = [header, *(_row(layer) for layer in self.layers), self._totals()]
        lines = aligned(rows, numbers=range(2, 7))
        lines.insert(1, "-" * max(len(line) for line in lines))
        settings = ", ".join(
            f"{key} {'mixed' if isinstance(value, dict) else value}" for key, value in self.settings.items()
        )
        lines.append(f"{len(self.converted)} of {len(self.layers)} convolutions converted ({settings}), ")
        lines[-1] += f"{self.seconds:.1f} s"
        if self.macs_before is None:
            lines.append("MACs unknown: give `example_input` or `calibration`")
        if self.converted and self.settings.get("calibrated") is False:
            lines.append(
                "fitted without images, which can cost most of the accuracy: give `calibration`, or fine-tune"
            )
        return "\n".join(lines)

    def _totals(self) -> tuple[str, ...]:
        remark = f"params x {self.params_after / max(1, self.params_before):.3f}"
        if self.macs_ratio is not None:
            remark += f", MACs x {self.macs_ratio:.3f}"
        counts = (self.params_before, self.params_after, self.macs_before, self.macs_after)
        return ("whole network", "", *(_count(count) for count in counts), "", remark)


def _row(layer: LayerReport) -> tuple[str, ...]:
    error = "" if layer.reconstruction_error is None else f"{layer.reconstruction_error:.3f}"
    counts = (layer.params_before, layer.params_after, layer.macs_before, layer.macs_after)
    return (layer.name, layer.action, *(_count(count) for count in counts), error, layer.reason or "")


def _count(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"
