"""Compile networks as C for other processors, run them there under QEMU and compare with this machine and PyTorch.

For maintainers; `pip install ziglang` brings the compiler and Debian's package qemu-user-static the emulators:

    python scripts/check_c_elsewhere.py runs/elsewhere --result results/arm/c.json

Emulated times mean nothing, so none is taken. A network whose output differs by more than 1e-4 of its largest value
ends the script with code 1; where its weights are in half precision, by 2e-2 from PyTorch's, and where it computes in
bytes, by 0.2 from PyTorch's and 0.05 from this machine's, as few values that are rounded the other way spread.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from check_on_arm import TOLERANCE, networks
from torch import nn

import ghostnet
from ghostnet.deploy import export, load
from ghostnet.deploy.compare import relative_error
from ghostnet.errors import InputError
from ghostnet.recipes.result import write_record

# what this script calls a processor, the compiler's names of it, and the emulator's
PROCESSORS = {
    "aarch64": (["-target", "aarch64-linux-musl"], "qemu-aarch64-static"),
    "aarch64 with dot products": (
        ["-target", "aarch64-linux-musl", "-mcpu=cortex_a76"],
        "qemu-aarch64-static",
    ),
    "armv7": (["-target", "arm-linux-musleabihf", "-mcpu=cortex_a7"], "qemu-arm-static"),
    "riscv64": (["-target", "riscv64-linux-musl"], "qemu-riscv64-static"),
}
FLAGS = ["-std=gnu11", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w", "-static"]
PROGRAM = Path(__file__).with_name("run_network.c")
TOLERANCES = {"fp32": TOLERANCE, "fp16": 2e-2, "int8": 0.2}  # from PyTorch
TOLERANCES_HERE = {"fp32": TOLERANCE, "fp16": TOLERANCE, "int8": 0.05}


def compiled(path: Path, processor: str) -> Path:
    """Compile a network for a processor, with a program that reads its files, and return the program."""
    program = path.with_suffix(f".{processor.replace(' ', '_')}")
    command = [sys.executable, "-m", "ziglang", "cc", *PROCESSORS[processor][0], *FLAGS]
    done = subprocess.run([*command, path, PROGRAM, "-o", program, "-lm"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"{path.name} does not compile for {processor}: {done.stderr.strip().splitlines()[0]}"
        )
    return program


def dense_prediction() -> nn.Module:
    """Return a small network of the layers that segmentation is made of, with random weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(
            16, 24, 3, padding=2, dilation=2
        ),  # by Winograd's algorithm, on every second row and column
        nn.Hardswish(),
        nn.Conv2d(24, 24, 5, padding=4, dilation=2, groups=24),
        nn.Conv2d(24, 24, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(24, 16, 3, stride=2, padding=1, output_padding=1),
        nn.Conv2d(16, 20, 1),
        nn.PixelShuffle(2),
        nn.Upsample(scale_factor=0.75, mode="bilinear", align_corners=False),
        nn.Softmax(dim=1),
    )
    return model.eval()


def compared(
    folder: Path, name: str, model: nn.Module, size: tuple[int, ...], processor: str, precision: str
) -> dict[str, Any]:
    """Export a network, run it here and there, and return the differences."""
    path = folder / f"{name.replace(' ', '_')}_{precision}.c"
    export(model, "c", path, input_size=size, precision=precision, force=True)
    image = np.random.default_rng(0).standard_normal((1, *size), dtype=np.float32)
    image.tofile(path.with_suffix(".image"))
    command = [
        PROCESSORS[processor][1],
        compiled(path, processor),
        path.with_suffix(".bin"),
        path.with_suffix(".image"),
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    here = torch.from_numpy(load(path, threads=1).predict(image))
    there = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy()).reshape(here.shape)
    with torch.no_grad():
        eager = model(torch.from_numpy(image))
    return {
        "network": name,
        "runtime": "c",
        "version": ghostnet.__version__,
        "precision": precision,
        "input_size": list(size),
        "against_here": relative_error(here, there),
        "against_pytorch": relative_error(eager, there),
        "machine": processor,
    }


def emulator_version() -> str:
    """Return the version of QEMU; raise unless everything that is needed is there."""
    if importlib.util.find_spec("ziglang") is None:
        raise InputError("ziglang is not installed; run: pip install ziglang")
    for _, emulator in PROCESSORS.values():
        if shutil.which(emulator) is None:
            raise InputError(f"{emulator} is not installed; run: apt-get install qemu-user-static")
    emulator = next(iter(PROCESSORS.values()))[1]
    return subprocess.run([emulator, "--version"], capture_output=True, text=True, check=True).stdout.split()[
        2
    ]


def main() -> None:
    """Compare all networks on all processors, print a line for each, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps the files")
    parser.add_argument("--result", type=Path, help="also write a record")
    given = parser.parse_args()
    started = time.monotonic()
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    try:
        version = emulator_version()
        cases = {**networks(), "dense prediction": (dense_prediction(), (3, 34, 46))}
        for name, (model, size) in cases.items():
            for processor, precision in itertools.product(PROCESSORS, TOLERANCES):
                rows.append(compared(given.folder, name, model, size, processor, precision))
                print(
                    "{network} in {precision} on {machine}: {against_here:.1e}, {against_pytorch:.1e}".format(
                        **rows[-1]
                    ),
                    flush=True,
                )
    except InputError as error:
        sys.exit(f"error: {error}")
    if given.result:
        write_record(
            given.result,
            {"rows": rows, "qemu": version, "tolerance": TOLERANCE, "tolerances": TOLERANCES, "batch": 1},
            seconds=time.monotonic() - started,
            recipe={"name": "check_c_elsewhere"},
            more={"command": " ".join(["python scripts/check_c_elsewhere.py", *sys.argv[1:]])},
        )
    fits = all(
        row["against_here"] <= TOLERANCES_HERE[row["precision"]]
        and row["against_pytorch"] <= TOLERANCES[row["precision"]]
        for row in rows
    )
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    main()
