"""Small image files and class folders for the tests, drawn from a seed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    """Return smooth colours, so that JPEG keeps them nearly as they are."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [Image.fromarray(coarse[:, :, c]).resize((width, height)) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], 2)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(seed: int, **options: Any) -> bytes:
    """Return a JPEG of `picture`."""
    return encoded(Image.fromarray(picture(seed, **options)), "JPEG", quality=95)


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    """Write so many JPEG files into a folder for each class."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03d}.jpg").write_bytes(jpeg(seed))
            seed += 1
    return root
