"""Bytes to an upright RGB image, or a located error: one loader for training, evaluation and serving.

What a file's name says is ignored; its bytes must be one of seven formats. The number of pixels is read from
the header and capped before any pixel is decoded, a file that stops early is refused (never filled with
grey), EXIF orientation is applied, and every colour mode has its row in `to_rgb`. Colour profiles and all
other metadata are dropped before decoding (`unimo.data.image_metadata`): no fault in them costs an image.
Decoding takes 8 bytes a pixel at most, and some megabytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile

from unimo.data.image_metadata import without_metadata
from unimo.errors import DataError
from unimo.file_access import MAX_MEMBER_BYTES, read_file

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 40_000_000
MAX_SIDE = 1_000_000  # a resampling filter needs some dozens of bytes for each row or column it reads

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF 2.32, tag Orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Cache:
    """Decoded images as uint8 squares, up to a number of bytes; what does not fit is decoded again."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self.kept: dict[tuple[str, int], np.ndarray] = {}

    def get(self, key: tuple[str, int], make: Callable[[], np.ndarray]) -> np.ndarray:
        if key in self.kept:
            return self.kept[key]
        image = make()
        if self.used + image.nbytes <= self.limit:
            self.kept[key] = image
            self.used += image.nbytes
        return image


def load_rgb(source: bytes | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, where: object = None) -> Image.Image:
    """The first frame of an encoded image as an upright image of mode RGB.

    source: the encoded bytes, a path, or an open binary file. where: named in errors (default: the path).
    Raises DataError for whatever is not one complete image of the seven formats within max_pixels.
    """
    with _located(source, where), _opened(source, max_pixels) as image:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = to_rgb(image)
        rgb.info = {}
        return rgb if turn is None else rgb.transpose(turn)


def image_size(
    source: bytes | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, where: object = None
) -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone: the pixels may still turn out to be
    broken."""
    with _located(source, where), _opened(source, max_pixels) as image:
        # Pillow would decode a PNG to look for EXIF behind its pixels, where `without_metadata` leaves none.
        png_without_exif = image.format == "PNG" and "exif" not in image.info
        sideways = not png_without_exif and _orientation(image) in (5, 6, 7, 8)
        width, height = image.size
        return (height, width) if sideways else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB: alpha over white, 16 bits scaled to 8, floats read as 0..255.

    Floats of which none is over 1 are read as 0..1. Raises DataError for pixels or modes that have no such form.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()  # a plain image, detached from its file
    width, height = image.size
    if image.mode == "F" and 0 < cast(float, image.getextrema()[1]) <= 1:
        image = image.point(lambda value: value * 255 + 0)  # floats take a line, no more
    rows = max(1, _STRIP // max(1, width))
    rgb = Image.new("RGB", image.size)
    for top in range(0, height, rows):  # what stands between both forms need not be whole
        rgb.paste(_strip_to_rgb(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return rgb


_STRIP = 2**20  # pixels converted at a time
_EIGHT_BITS = np.rint(np.arange(65536) * 255.0 / 65535.0).astype(np.uint8)  # of 16


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I"):  # I;16 and its byte orders; Pillow's own conversion would clip at 255
        values = np.asarray(image)
        grey = _EIGHT_BITS[values.clip(0, 65535)]
        if "transparency" in image.info:  # one transparent level
            grey[values == image.info["transparency"]] = 255
        return _grey(grey)
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _over_white(image)
    if mode in ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    if mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise DataError("pixels that are not finite numbers", got="NaN or infinity", do="repair or leave it out")
        return _grey(np.rint(values.clip(0, 255)).astype(np.uint8))
    raise DataError("a colour mode without a defined RGB form", got=mode, do="convert the image to RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels: shown as stored, as in browsers
        return 1


@contextmanager
def _opened(source: bytes | Path | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    if isinstance(source, (str, Path)):
        source = read_file(Path(source))
    elif not isinstance(source, (bytes, bytearray, memoryview)):
        source = source.read(MAX_MEMBER_BYTES)
    stream = io.BytesIO(without_metadata(bytes(source)))
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched strictness off
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels or max(width, height) > MAX_SIDE:
                    expected = f"at most {max_pixels} pixels, and {MAX_SIDE} on a side"
                    do = "shrink the image, or leave it out"
                    raise DataError("image has too many pixels", got=f"{width} x {height}", expected=expected, do=do)
                yield image
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


@contextmanager
def _located(source: object, where: object) -> Iterator[None]:
    """Pillow answers hostile bytes with a dozen exception types; callers meet one."""
    where = where if where is not None else (source if isinstance(source, Path) else None)
    try:
        yield
    except DataError as error:
        error.where = error.where if error.where is not None else where
        raise
    except Exception as error:
        head = bytes(source[:16]) if isinstance(source, (bytes, bytearray)) else None
        what, expected = "cannot decode image", "one complete " + ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]} file"
        do = "replace the file, or leave it out"
        raise DataError(what, where=where, got=_reason(error, head), expected=expected, do=do) from error


def _reason(error: Exception, head: bytes | None) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "bytes of no known image format" + ("" if head is None else f", beginning {head!r}")
    # Pillow's texts name the damage ("image file is truncated"), never memory addresses once the repr is cut.
    return f"{type(error).__name__}: {str(error).split(' object at ')[0]}"[:200]
