"""What this processor can do with many numbers at once, as far as it says so."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
_X86 = ("x86_64", "amd64", "i386", "i686", "x86")


@functools.cache
def processor_features() -> tuple[str, ...]:
    """Return which vector and matrix extensions this processor states (Linux on x86; else nothing is known)."""
    place = Path("/proc/cpuinfo")
    if not place.is_file():
        return ()
    flags = next((line.split() for line in place.read_text().splitlines() if line.startswith("flags")), [])
    return tuple(name for name in _FEATURES if name in flags)


def usual_weight_bits() -> int:
    """Return how many bits of int8 weights come out right on this processor: 8, or 7 on x86 without VNNI.

    There two products of unsigned and signed bytes are added up in 16 bits, which 255 x 127 x 2 exceeds; runtimes
    clip the sum and say nothing. An x86 processor whose features nothing states (Windows, macOS) counts as one without.
    """
    features = processor_features()
    if not features and platform.machine().lower() not in _X86:
        return 8
    return 8 if any("vnni" in name or name == "amx_int8" for name in features) else 7
