"""Random views of an image, each a pure function of its generator (spec unimo2 §4.5, §5.4).

Images are (S, S, 3) uint8 arrays, already squeezed to a square: the published pipeline does not keep the
aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from unimo.config import setting


@dataclass(frozen=True)
class Views:
    """How far a random view may stray from the image."""

    crop: float = setting(1.0, "smallest fraction of the area a random crop keeps; 1 = no crop", above=0, at_most=1)
    flip: float = setting(
        0.0, "chance of a left-right flip; keep it 0 where captions speak of left and right", at_least=0, at_most=1
    )
    jitter: float = setting(0.0, "strength of random brightness, contrast and saturation", at_least=0, at_most=1)
    grey: float = setting(0.0, "chance of losing all colour", at_least=0, at_most=1)


def resize(image: Image.Image, size: int) -> np.ndarray:
    """The whole image as a (size, size, 3) uint8 array, bicubic, aspect ratio not kept."""
    if image.size != (size, size):
        # Each pass rounds to whole levels. Their order is said here: Pillow 13 turned it round for tall images.
        width, height = image.size
        between = (size, height)
        if size * height > width * height + _BETWEEN * size * size:  # a thread of pixels is not first made a sheet
            between = (width, size)
        image = image.resize(between, Image.Resampling.BICUBIC)
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


_BETWEEN = 16  # squares that may stand between both passes, beside the image's own pixels


def view(image: np.ndarray, size: int, views: Views, rng: np.random.Generator) -> np.ndarray:
    """One random view: (3, size, size) uint8. Always draws the same number of values, so that options
    do not shift later draws.
    """
    side = image.shape[0]
    area, left, top, flip, grey, ratio = rng.random(6)
    strengths = 1 + views.jitter * (2 * rng.random(3) - 1)
    fraction = views.crop + (1 - views.crop) * area
    stretch = np.exp((2 * ratio - 1) * np.log(4 / 3)) if views.crop < 1 else 1.0
    width, height = (min(1.0, np.sqrt(fraction * s)) * side for s in (stretch, 1 / stretch))
    if (width, height) != (size, size) or side != size:
        x, y = left * (side - width), top * (side - height)
        whole = Image.fromarray(image)
        image = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + width, y + height)))
    if flip < views.flip:
        image = image[:, ::-1]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return recolour(planes, strengths, grey < views.grey) if views.jitter or views.grey else planes


def recolour(planes: np.ndarray, strengths: np.ndarray, grey: bool) -> np.ndarray:
    """Brightness, contrast and saturation of (3, S, S) scaled by `strengths`; grey drops the colour."""
    brightness, contrast, saturation = strengths.astype(np.float32)
    x = planes.astype(np.float32) * brightness
    mean = x.mean(axis=0)
    x = mean + (0.0 if grey else saturation) * (x - mean)
    middle = mean.mean()
    return np.clip(middle + contrast * (x - middle), 0, 255).astype(np.uint8)
