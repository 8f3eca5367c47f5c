"""What UNIMO reads of an image: features of detected regions, and where they lie (spec unimo §1.5, §6.9, §6.11).

    R regions · F feature size · K classes of the detector · N images · n tokens

Row 0 of every array is [IMG], the whole image: the mean over all its regions, with the box (0, 0, 1, 1, 1).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from unimo.batch import Regions
from unimo.errors import DataError, UsageError

WHOLE = (0.0, 0.0, 1.0, 1.0, 1.0)
EDGE = 1.0  # pixels by which a detector's rounding may put a corner outside


@dataclass(frozen=True)
class ImageRegions:
    """One image. features: (1 + R, F) float32; boxes: (1 + R, 5) float32; classes: (1 + R, K) float32 or None."""

    features: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)


def image_regions(
    features: ArrayLike,
    boxes: ArrayLike,
    width: float,
    height: float,
    *,
    classes: ArrayLike | None = None,
    max_rows: int | None = None,
    where: object = "this image",
) -> ImageRegions:
    """A detector's answer, checked and with [IMG] in front, in the detector's order.

    features: (R, F); boxes: (R, 4) corners in pixels; classes: (R, K) probabilities. max_rows: rows kept, [IMG]
    included, which is the mean over all regions nevertheless. Raises DataError for what `box_vectors` refuses, for
    values that are not finite, and where there is not one row for each box.
    """
    if max_rows is not None and max_rows < 2:
        raise UsageError("No room for a region beside [IMG]", where="max_rows", got=max_rows, expected="2 or more")
    vectors = box_vectors(boxes, width, height, where=where)
    tables = [*with_global(_one_row_each(features, len(vectors), "feature", where), vectors)]
    if classes is not None:
        tables.append(_mean_first(_one_row_each(classes, len(vectors), "class probability", where)))
    return ImageRegions(*(table[:max_rows] for table in tables))


def box_vectors(boxes: ArrayLike, width: float, height: float, *, where: object = "this image") -> np.ndarray:
    """(R, 4) corners x1, y1, x2, y2 in pixels -> (R, 5) float32: x1 / W, y1 / H, x2 / W, y2 / H, fraction of the area.

    Raises DataError if there is no box, a corner is no number or outside the image, a box ends before it begins, or
    the image has no size.
    """
    if not (np.isfinite([width, height]).all() and min(width, height) > 0):
        raise DataError("An image without a size", where=where, got=f"{width} x {height}", expected="above 0")
    corners = _table(boxes, "box", where)
    if corners.shape[1] != 4 or not len(corners):
        raise DataError("Not a table of boxes", where=where, got=corners.shape, expected="(R, 4), R at least 1")
    x1, y1, x2, y2 = corners.T
    outside = (np.minimum(x1, y1) < -EDGE) | (x2 > width + EDGE) | (y2 > height + EDGE)
    do = "check that corners are x1, y1, x2, y2, and which of the sizes is the width"
    for wrong, what, expected in (
        ((x2 < x1) | (y2 < y1), "A box ends before it begins", "x1 <= x2 and y1 <= y2"),
        (outside, "A box lies outside its image", f"within {width} x {height}"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(what, where=f"{where}, region {i}", got=corners[i].tolist(), expected=expected, do=do)
    w, h = np.float32(width), np.float32(height)
    return np.stack([x1 / w, y1 / h, x2 / w, y2 / h, (y2 - y1) * (x2 - x1) / (w * h)], axis=1)


def with_global(features: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R, F) features and (R, 5) box vectors -> (1 + R, F) and (1 + R, 5), [IMG] first."""
    return _mean_first(features), np.concatenate([np.array([WHOLE], dtype=boxes.dtype), boxes])


def stack_regions(images: Sequence[ImageRegions]) -> Regions:
    """N images as one rectangle, the shorter ones filled up with zeros; classes only where every image has them."""
    if not images:
        raise UsageError("No images to stack", expected="at least one")
    if not all(len(image) for image in images):
        raise UsageError("An image without regions", expected="at least [IMG]", do="leave the image away")
    classes = [image.classes for image in images if image.classes is not None]
    return Regions(
        features=_rectangle([image.features for image in images]),
        boxes=_rectangle([image.boxes for image in images]),
        lengths=torch.tensor([len(image) for image in images]),
        classes=_rectangle(classes) if len(classes) == len(images) else None,
    )


# ---- released files

CAPTION_FIELDS = (
    *("image", "caption", "token ids", "sentence ids", "positions", "segment labels", "nodes begin", "nodes end"),
    *("height", "width", "number of boxes", "boxes", "class probabilities", "attributes", "features", "label"),
)
TAG_FIELDS = ("image", "token ids", "sentence ids", "positions")
IMAGE_PREFIX = len("COCO_val_")  # stands before the image's key in caption files, not in tag files


@dataclass(frozen=True)
class CaptionLine:
    """One line of the released COCO captions.

    image: the key of its tags; caption: its name. ids, positions, word_starts: (n,) int64, `[CLS] words [SEP]` (0 first
    piece of a word, 1 further piece, -1 special), n = 0 where the caption is to be written. label: 1, it belongs to the
    image.
    """

    image: str
    caption: str
    ids: np.ndarray
    positions: np.ndarray
    word_starts: np.ndarray
    regions: ImageRegions
    label: int


@dataclass(frozen=True)
class TagLine:
    """One line of the released object tags. ids, positions: (n,) int64, `[CLS] tags [SEP]`."""

    image: str
    ids: np.ndarray
    positions: np.ndarray


def read_caption_line(
    line: str,
    *,
    max_length: int | None = None,
    max_rows: int | None = None,
    feature_size: int = 2048,
    classes: int = 1601,
    where: object = "this line",
) -> CaptionLine:
    """A line of 16 fields with ; between them, tables as base64 of little-endian float32 (spec unimo §6.11).

    max_length: tokens kept of the caption, its [SEP] always among them. max_rows: as for `image_regions`. Not read:
    sentence ids and attributes, which the models have no use for, and the places of scene graph nodes.
    """
    if max_length is not None and max_length < 2:
        raise UsageError("No room for [CLS] and [SEP]", where="max_length", got=max_length, expected="2 or more")
    fields = _fields(line, CAPTION_FIELDS, where)
    ids, positions, word_starts = _rows(fields, ("token ids", "positions", "segment labels"), where)
    if max_length is not None and len(ids) > max_length:
        kept = [*range(max_length - 1), len(ids) - 1]
        ids, positions, word_starts = ids[kept], positions[:max_length], word_starts[kept]
    count = _number(fields, "number of boxes", where)
    regions = image_regions(
        _floats(fields, "features", count, feature_size, where),
        _floats(fields, "boxes", count, 4, where),
        _number(fields, "width", where),
        _number(fields, "height", where),
        classes=_floats(fields, "class probabilities", count, classes, where),
        max_rows=max_rows,
        where=where,
    )
    image = fields["image"][IMAGE_PREFIX:]
    if not image:
        raise DataError("An image without a key", where=f"{where}, image", got=fields["image"], expected="COCO_val_...")
    label = _number(fields, "label", where)
    return CaptionLine(image, fields["caption"], ids, positions, word_starts, regions, label)


def read_tag_line(line: str, *, where: object = "this line") -> TagLine:
    """A line of 4 fields with ; between them: the labels that the detector gave one image, as a text."""
    fields = _fields(line, TAG_FIELDS, where)
    return TagLine(fields["image"], *_rows(fields, ("token ids", "positions"), where))


def _fields(line: str, names: Sequence[str], where: object) -> dict[str, str]:
    values = line.rstrip("\r\n").split(";")
    if len(values) != len(names):
        expected = f"{len(names)}: {'; '.join(names)}"
        raise DataError("Wrong number of fields", where=where, got=len(values), expected=expected)
    return dict(zip(names, values))


def _number(fields: dict[str, str], name: str, where: object) -> int:
    value = fields[name].strip()
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise DataError("Not a whole number", where=f"{where}, {name}", got=value, expected="0 or more")
    return int(value)


def _rows(fields: dict[str, str], names: Sequence[str], where: object) -> list[np.ndarray]:
    """Rows of whole numbers that belong together, (n,) int64 each."""
    rows = []
    for name in names:
        try:
            rows.append(np.array(fields[name].split(), dtype=np.int64))
        except (ValueError, OverflowError) as error:
            raise DataError("Not a row of whole numbers", where=f"{where}, {name}", got=error) from None
        if len(rows[-1]) != len(rows[0]):
            got = f"{len(rows[-1])} {name}"
            raise DataError("Rows of one text differ in length", where=where, got=got, expected=f"{len(rows[0])}")
    return rows


def _floats(fields: dict[str, str], name: str, rows: int, columns: int, where: object) -> np.ndarray:
    """(rows, columns) float32."""
    try:
        data = base64.b64decode(fields[name], validate=True)
    except ValueError as error:
        raise DataError("Not base64", where=f"{where}, {name}", got=error, do="fetch the file again") from None
    if len(data) != 4 * rows * columns:
        expected = f"{4 * rows * columns} ({rows} rows of {columns} float32)"
        raise DataError(
            "A table of another size", where=f"{where}, {name}", got=f"{len(data)} bytes", expected=expected
        )
    return np.frombuffer(data, "<f4").astype(np.float32).reshape(rows, columns)


# ---- arrays


def _table(values: ArrayLike, what: str, where: object) -> np.ndarray:
    """(R, any) float32, finite."""
    try:
        table = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"A {what} is no number", where=where, got=error) from None
    if table.ndim != 2:
        raise DataError("Not a table", where=f"{where}, {what}", got=table.shape, expected=f"one {what} row a region")
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        i = int(finite.argmin())
        got = table[i][~np.isfinite(table[i])][0]
        raise DataError(f"A {what} is not finite", where=f"{where}, region {i}", got=got)
    return table


def _one_row_each(values: ArrayLike, boxes: int, what: str, where: object) -> np.ndarray:
    table = _table(values, what, where)
    if len(table) != boxes:
        raise DataError(f"Not one {what} row for each box", where=where, got=len(table), expected=boxes)
    return table


def _mean_first(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table.mean(axis=0, keepdims=True), table])


def _rectangle(tables: Sequence[np.ndarray]) -> torch.Tensor:
    """Tables of different heights as (N, R, columns), zeros below the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(table) for table in tables], batch_first=True)
