"""Bytes of an image file to RGB pixels, or one line that says why not; never silently wrong pixels.

Pillow decodes: torchvision's own decoders are a fifth faster on JPEG, but deprecated since 0.29 and on their way out.
Rules: orientation from EXIF is applied; transparency is laid on white; 16-bit grey is scaled to 8 bits, not clipped;
of an animation the first frame counts. Left out: colour profiles.
"""

from __future__ import annotations

import io
import signal
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ghostnet.errors import InputError

_WHITE = (255, 255, 255, 255)
_PLAIN = ("RGB", "L", "1", "CMYK", "YCbCr")  # Pillow converts these to RGB as a viewer shows them
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
_LONGEST = 100  # times the shorter side
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF's tag and its value; Pillow heeds it in 8 bits only
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImageError(InputError):
    """An image that cannot be decoded.

    Attributes:
        reason: why, without the image's name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be read as an image: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        """Rebuild from name and reason, so that it survives the way back from a worker process."""
        return type(self), (self.name, self.reason)


def decode_image(content: bytes, name: str = "image") -> Tensor:
    """Decode one image file to RGB.

    Args:
        content: the file's bytes: JPEG, PNG, GIF, WebP, BMP, TIFF or whatever Pillow reads.
        name: what an error calls it.

    Returns:
        uint8 `(3, H, W)`, upright.

    Raises:
        UnreadableImageError: damaged, cut off, no image, or of a kind whose colours are not known.
    """
    pixels = _decode_with_pillow(content, name)
    height, width = pixels.shape[1:]
    if max(height, width) > _LONGEST * min(height, width):
        raise UnreadableImageError(
            name, f"it is {width}x{height} pixels, a strip that resizing would blow up; crop it"
        )
    return pixels


def read_image(read: Callable[[], bytes], name: str) -> Tensor:
    """Read and decode one image file, so that one that cannot be opened is told like one that is damaged.

    Args:
        read: gives the file's bytes; a path's `read_bytes`, for instance.
        name: what an error calls it.

    Returns:
        As `decode_image`.

    Raises:
        UnreadableImageError: as `decode_image`, or the file cannot be read.
    """
    try:
        content = read()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error
    return decode_image(content, name)


def _decode_with_pillow(content: bytes, name: str) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and large images are not the user's concern here
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                pixels = np.array(_to_rgb(image, name))
    except UnreadableImageError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        reason = "its format is not known" if type(error).__name__ == "UnidentifiedImageError" else str(error)
        raise UnreadableImageError(name, " ".join(reason.split()) or type(error).__name__) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _to_rgb(image: object, name: str) -> object:
    from PIL import Image

    assert isinstance(image, Image.Image)  # for the type checker; Pillow is imported late
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # Pillow would copy it
    if image.mode in _DEEP_GREY or (
        image.mode == "I" and image.format == "PPM"
    ):  # which Pillow brings to 16 bits
        return _from_deep_grey(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:  # a colour key in the latter
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer).convert("RGB")
    if image.mode in _PLAIN:
        return image.convert("RGB")
    raise UnreadableImageError(
        name, f"pixels of Pillow's mode {image.mode!r} have no known range; save it as 8 bits"
    )


def _from_deep_grey(image: Any) -> object:
    from PIL import Image

    deep = np.asarray(image).astype(np.uint32)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        deep = 65535 - deep
    clear = image.info.get("transparency")  # the one grey that is transparent
    if isinstance(clear, int):
        deep[deep == clear] = 65535
    grey = ((deep * 255 + 32767) // 65535).astype(np.uint8)  # Pillow's own conversion clips at 255
    return Image.fromarray(grey).convert("RGB")


def leave_interrupts_to_parent(_worker: int) -> None:
    """Let a process that decodes live through Ctrl-C, for the step that its parent still finishes, not SIGTERM.

    That is how the parent ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
