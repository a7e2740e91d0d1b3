"""ncnn files (.param and .bin beside it, weights in float32), written by pnnx from a trace, and ncnn on the CPU.

ncnn has no batch: one call is one image, and a session calls it for each image of a batch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ghostnet.deploy.targets.target import ALONE
from ghostnet.quiet import quiet_native, quiet_python

if TYPE_CHECKING:
    import torch
    from torch import nn

_MAGIC = "7767517"  # the first line of every .param file
_FOREIGN_MARKS = (".", "::")  # in a layer's type: pnnx left an operator of PyTorch for which ncnn has none


class Ncnn:
    """The target "ncnn"."""

    name = "ncnn"
    runtime = "ncnn"
    kind = "ncnn"
    extra = "export"
    package = "ncnn"
    write_modules: tuple[str, ...] = ("pnnx",)
    open_module = "ncnn"
    suffixes: tuple[str, ...] = (".param", ".bin")
    writes_folder: bool = False
    precisions: tuple[str, ...] = (
        "fp32",
    )  # bf16 gave results of no use on x86: errors of 0.3 to 300,000 times
    traces = True
    dynamic_batch = False
    system: str | None = None
    threads_in_use: int | None = None

    def write(
        self,
        model: nn.Module,
        path: Path,
        example: torch.Tensor,
        metadata: Mapping[str, str],  # noqa: ARG002  (the format has no place for texts)
        outputs: Sequence[str] = ALONE,  # noqa: ARG002  (pnnx numbers them)
    ) -> dict[str, int]:
        """Write both files. Raises ValueError with the operator's name where ncnn has none like it."""
        from ghostnet.deploy.optimize import passes_of
        from ghostnet.deploy.passes.ncnn_pixels import with_inner_products
        from ghostnet.deploy.targets.ncnn_trace import save_trace

        with tempfile.TemporaryDirectory() as folder:
            with quiet_python():
                save_trace(model, Path(folder) / "net.pt", example[:1])
            self._convert(Path(folder), tuple(example.shape[1:]))
            text = _with_input_size(Path(folder) / "net.ncnn.param", tuple(example.shape[1:]))
            for kind, name in _layers(text):
                if any(mark in kind for mark in _FOREIGN_MARKS):
                    raise ValueError(f"ncnn has no operator {kind} ({name} in pnnx's file)")
            text = with_inner_products(text) if passes_of(model) else text
            path.write_text(text)
            shutil.copyfile(Path(folder) / "net.ncnn.bin", path.with_suffix(".bin"))
        return dict(sorted(Counter(kind for kind, _ in _layers(text)).items()))

    def _convert(self, folder: Path, input_size: tuple[int, ...]) -> None:
        import pnnx

        shape = ",".join(map(str, (1, *input_size)))
        command = [pnnx.EXEC_PATH, "net.pt", f"inputshape=[{shape}]f32", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode != 0 or not (folder / "net.ncnn.param").is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"pnnx ended with code {done.returncode}: {last}")

    def open(self, path: Path, *, threads: int, precision: str) -> NcnnRunner:  # noqa: ARG002  (there is but one)
        """Load both files."""
        import ncnn

        first = path.read_bytes()[: len(_MAGIC)]
        if first != _MAGIC.encode():
            raise ValueError(f"its first line is not {_MAGIC}")
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(net.opt, option, False)  # on ARM they are on unless they are switched off
        for option in ("use_bf16_packed", "use_bf16_storage"):
            if hasattr(net.opt, option):  # older releases have the second only
                setattr(net.opt, option, False)
        with quiet_native():
            if net.load_param(str(path)) != 0:
                raise ValueError("its layers cannot be read")
            if net.load_model(str(path.with_suffix(".bin"))) != 0:
                raise ValueError(f"the weights in {path.with_suffix('.bin').name} are missing or truncated")
        return NcnnRunner(net, _input_size(path.read_text()))


class NcnnRunner:
    """A network in ncnn."""

    batch: int | None = 1

    def __init__(self, net: Any, input_size: tuple[Any, ...]) -> None:
        self._net = net
        self._input = net.input_names()[0]
        self.outputs = tuple(sorted(net.output_names(), key=_number))
        self.input_size = input_size
        self.metadata: dict[str, str] = {}

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for one image."""
        import ncnn

        extractor = self._net.create_extractor()
        image = np.ascontiguousarray(images[0])
        # memory of ncnn's own: a first layer that works in place would free what is NumPy's
        if extractor.input(self._input, ncnn.Mat(image).clone()) != 0:
            raise RuntimeError("ncnn does not take the input")
        found = []
        for name in self.outputs:
            code, output = extractor.extract(name)
            if code != 0:
                raise RuntimeError(f"ncnn ended with code {code}; is there enough memory?")
            found.append(np.array(output)[None])
        return found


def _number(name: str) -> tuple[int, str]:
    """Return the number behind a name of pnnx's ("out10"): the file has outputs in the order of its layers."""
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else 0, name)


def _layers(text: str) -> list[tuple[str, str]]:
    """Return type and name of each layer of a .param file."""
    lines = [line.split() for line in text.splitlines()[2:] if line.strip()]
    return [(line[0], line[1]) for line in lines]


def _with_input_size(path: Path, input_size: tuple[int, ...]) -> str:
    """Return the text with the input's sizes in its Input layer (0 width, 1 height, 2 channels)."""
    lines = path.read_text().splitlines()
    sizes = " ".join(f"{number}={size}" for number, size in enumerate(reversed(input_size)))
    for number, line in enumerate(lines):
        if line.split()[0] == "Input" and len(input_size) <= 3:
            lines[number] = f"{line.rstrip()} {sizes}"
            break
    return "\n".join(lines) + "\n"


def _input_size(text: str) -> tuple[Any, ...]:
    """Return the sizes in the Input layer, slowest first; "any" for a file that does not state them."""
    for line in text.splitlines()[2:]:
        words = line.split()
        if words and words[0] == "Input":
            stated = dict(word.split("=", 1) for word in words if "=" in word)
            sizes = [int(stated[key]) for key in ("0", "1", "2") if key in stated]
            return tuple(reversed(sizes)) if sizes else ("any",) * 3
    return ("any",) * 3
