"""Decoding: right pixels from every kind of file, or one line that names the image; never silently wrong ones."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from pictures import encoded, jpeg, picture
from PIL import Image

from ghostnet.data import UnreadableImageError, decode_image

PIXELS = picture(0)
RGB = Image.fromarray(PIXELS)
GREY = RGB.convert("L")


def _close(found: torch.Tensor, wanted: np.ndarray, most: int = 0) -> None:
    assert found.dtype == torch.uint8
    assert tuple(found.shape) == (3, *wanted.shape[:2])
    difference = np.abs(found.permute(1, 2, 0).numpy().astype(int) - wanted.astype(int))
    assert difference.max() <= most


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_kinds_give_the_very_pixels(kind: str) -> None:
    _close(decode_image(encoded(RGB, kind)), PIXELS)


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 60, "progressive": True}])
def test_jpeg_gives_what_pillow_gives(options: dict[str, int]) -> None:
    content = encoded(RGB, "JPEG", **options)
    _close(decode_image(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


def test_grey_jpeg_has_three_equal_channels() -> None:
    content = encoded(GREY, "JPEG", quality=95)
    wanted = np.asarray(Image.open(io.BytesIO(content)))
    _close(decode_image(content), np.stack([wanted] * 3, 2))


def test_cmyk_jpeg_has_the_colours_of_its_rgb_original() -> None:
    content = encoded(RGB.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    _close(decode_image(content), PIXELS, most=12)


def test_palette_images_have_the_palettes_colours() -> None:
    image = RGB.quantize(32)
    _close(decode_image(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_one_bit_images_are_black_and_white() -> None:
    bits = GREY.point(lambda value: 255 * (value > 127)).convert("1")
    _close(decode_image(encoded(bits, "PNG")), np.stack([np.asarray(bits) * np.uint8(255)] * 3, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    found = decode_image(encoded(Image.fromarray(deep), kind))
    _close(found, np.stack([np.round(deep / 257)] * 3, 2), most=1)
    assert len(found.unique()) == 256  # clipping would leave nearly everything white


def test_sixteen_bit_grey_may_count_from_white() -> None:
    deep = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    content = io.BytesIO()
    Image.fromarray(deep).save(content, "TIFF", tiffinfo={262: 0})  # Pillow writes the numbers as they are
    _close(decode_image(content.getvalue()), np.stack([255 - np.round(deep / 257)] * 3, 2), most=1)


def test_transparency_lies_on_white() -> None:
    layer = np.dstack([PIXELS, np.zeros((30, 40), np.uint8)])
    layer[:, 20:, 3] = 255
    found = decode_image(encoded(Image.fromarray(layer), "PNG"))
    wanted = PIXELS.copy()
    wanted[:, :20] = 255
    _close(found, wanted)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [RGB.quantize(16).convert("RGB"), Image.new("RGB", RGB.size), Image.new("RGB", RGB.size, "red")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    _close(decode_image(content), np.asarray(frames[0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_turned_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, as a telephone held upright writes it
    content = encoded(RGB, kind, exif=exif)
    wanted = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    _close(decode_image(content), np.rot90(wanted, 3))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_jpeg_is_named(share: float) -> None:
    content = jpeg(1, width=200, height=200)
    with pytest.raises(UnreadableImageError, match=r"cat\.jpg cannot be read as an image: .*truncated"):
        decode_image(content[: int(share * len(content))], "cat.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its format is not known"),
        (b"\xff\xd8\xff", "its format is not known"),
        (b"<html>not found</html>", "its format is not known"),
        (encoded(RGB, "PNG")[:400], "truncated|broken"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "mode 'F' have no known range"),
        (encoded(Image.new("RGB", (1000, 2)), "PNG"), "it is 1000x2 pixels"),
    ],
)
def test_what_is_no_usable_image_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"x.bin cannot be read as an image: .*({reason})"):
        decode_image(content, "x.bin")


def test_the_error_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.jpg", "cut off")))
    assert (str(error), error.reason) == ("a.jpg cannot be read as an image: cut off", "cut off")


def _deep_png(deep: np.ndarray, clear: int) -> bytes:
    """Return a 16-bit grey PNG in which one grey is transparent; Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = deep.shape
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    body = chunk(b"tRNS", struct.pack(">H", clear)) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def test_deep_grey_with_a_transparent_grey_is_not_white_all_over() -> None:
    deep = np.linspace(0, 65535, 35 * 40).reshape(35, 40).round().astype(np.uint16)
    wanted = np.round(deep / 257).astype(np.uint8)
    wanted[0, 0] = 255
    _close(decode_image(_deep_png(deep, int(deep[0, 0]))), np.stack([wanted] * 3, 2))


def test_deep_portable_greymaps_are_scaled() -> None:
    deep = np.linspace(0, 65535, 35 * 40).reshape(35, 40).round().astype(np.uint16)
    content = b"P5\n40 35\n65535\n" + deep.astype(">u2").tobytes()
    _close(decode_image(content), np.stack([np.round(deep / 257).astype(np.uint8)] * 3, 2))
