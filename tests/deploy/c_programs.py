"""What tests of networks as C share: memory with gaps between maps, and programs under a compiler's sanitizers."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).parents[2] / "scripts" / "run_network.c"


def apart(gap: int, behind: list[slice]):
    """Return a function in the place of `text.arena`: maps lie `gap` floats apart, and `behind` is told the gaps."""

    def arena(uses, places, sizes):
        begins, end = {}, gap
        for name in dict.fromkeys(places[name].buffer for names in uses for name in names):
            begins[name] = end
            behind.append(slice(end + math.prod(sizes[name]), end + math.prod(sizes[name]) + gap))
            end = -(-behind[-1].stop // 16) * 16
        return begins, end

    return arena


def answers_under(checked: str, path: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """Compile without a warning, for the plainest processor and with checks for what C leaves undefined, and run."""
    images.tofile(folder / "images.bin")
    flags = [
        "-O0",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-fsanitize={checked}",
        "-fno-sanitize-recover",
    ]
    subprocess.run(["cc", *flags, path, PROGRAM, "-o", folder / "main", "-lm"], check=True)
    command = [folder / "main", path.with_suffix(".bin"), folder / "images.bin"]
    quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(command, check=True, capture_output=True, env=quiet)
    return np.frombuffer(done.stdout, np.float32)[None]
