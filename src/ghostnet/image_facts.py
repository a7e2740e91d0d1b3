"""Under which names a network's `info` and a file's manifest say how images are prepared: `IMAGE_FACTS`."""

from __future__ import annotations

IMAGE_FACTS = ("image_size", "crop_fraction", "interpolation", "mean", "std")
