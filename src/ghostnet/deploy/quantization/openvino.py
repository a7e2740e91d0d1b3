"""int8 for OpenVINO by nncf: fake quantisation in the graph, weights per channel, biases corrected."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ghostnet import openvino_core
from ghostnet.quiet import quiet_native, quiet_python

_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_RANKING_IMAGES = 32  # a layer quantised alone is compared with the others, not used


class OpenVINOQuantiser:
    """Quantises one .xml with its .bin."""

    def __init__(self, path: Path, images: np.ndarray, weight_bits: int) -> None:
        self._path, self._images, self._narrow = path, images, weight_bits < 8

    def layers(self) -> list[str]:
        """Return the nodes' names."""
        return [
            node.get_friendly_name()
            for node in self._read().get_ordered_ops()
            if node.get_type_name() in _LAYERS
        ]

    def write(self, path: Path, *, keep: Collection[str] = (), only: str | None = None) -> None:
        """Write both files."""
        network = self._read()
        ignored, types = list(keep), []
        count = len(self._images)
        if only is not None:
            ignored = [name for name in self.layers() if name != only]
            types = sorted({node.get_type_name() for node in network.get_ops()} - {*_LAYERS})
            count = min(count, _RANKING_IMAGES)
        with openvino_core.no_usage_reports(), quiet_python(), quiet_native():
            nncf = _nncf()
            fix = nncf.OverflowFix.ENABLE if self._narrow else nncf.OverflowFix.FIRST_LAYER
            batches = [self._images[start : start + 1] for start in range(count)]
            quantised = nncf.quantize(
                network,
                nncf.Dataset(batches),
                subset_size=count,
                ignored_scope=nncf.IgnoredScope(names=ignored, types=types, validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
            openvino_core.openvino().save_model(quantised, str(path), compress_to_fp16=False)

    def _read(self) -> Any:
        core = openvino_core.core()
        with quiet_native():
            return core.read_model(str(self._path), str(self._path.with_suffix(".bin")))


def _nncf() -> Any:
    """Import nncf so that it sends no usage figures."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    return nncf
