"""int8 for C: each convolution of much work in bytes, its scales found while the network runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghostnet.deploy.targets.c import graph_of, program_of_graph, write_program

if TYPE_CHECKING:
    import torch
    from torch import nn


class CQuantiser:
    """Writes one network with some of its layers in bytes.

    Args:
        network: as it is to be written, after rewrites.
        example: one input or more.
        metadata: texts that the program keeps.
        outputs: names of what the network returns, in order.
    """

    def __init__(
        self, network: nn.Module, example: torch.Tensor, metadata: Mapping[str, str], outputs: Sequence[str]
    ) -> None:
        self._graph, self._metadata = graph_of(network, example, outputs), metadata

    def layers(self) -> list[str]:
        """Return the names of the maps that convolutions in bytes can make, in the graph that is written."""
        return program_of_graph(self._graph, self._metadata, "int8").bytes

    def write(self, path: Path, *, keep: Collection[str] = (), only: str | None = None) -> None:
        """Write a program and its weights."""
        kept = keep if only is None else [layer for layer in self.layers() if layer != only]
        write_program(program_of_graph(self._graph, self._metadata, "int8", kept), path)
