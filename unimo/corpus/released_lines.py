"""One line of the released data files with ; between its fields, as values (spec unimo §6.11, unimo2 §5.3).

     5 fields   caption of Flickr30k, both members   token ids; sentence ids; positions; image; caption
     8 fields   caption of COCO, UNIMO-2             image; path; caption; ids ...; segment labels; label
    14 fields   hypothesis of SNLI-VE, UNIMO         image; pair; label; ids ...; _; w; h; boxes; features; _; _
    16 fields   caption of COCO, UNIMO               `unimo.data.regions.read_caption_line`
     4 fields   object tags of COCO                  `unimo.data.regions.read_tag_line`

    n tokens · R regions

Token ids are those of the vocabulary, `[CLS] words [SEP]`. Sentence ids are not read: no model has use for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unimo.data import regions
from unimo.data.regions import ImageRegions
from unimo.errors import DataError

FLICKR_FIELDS = ("token ids", "sentence ids", "positions", "image", "caption")
UNIMO2_FIELDS = ("image", "path", "caption", "token ids", "sentence ids", "positions", "segment labels", "label")
ENTAILMENT_FIELDS = (
    *("image", "pair", "label", "token ids", "sentence ids", "positions", "unused", "width", "height"),
    *("number of boxes", "boxes", "features", "unused 2", "unused 3"),
)

_DO = "repair or remove this line"


@dataclass(frozen=True)
class ReleasedText:
    """What a line says beside its regions.

    image: the image's key; name: of the caption or pair; ids: (n,) int64, n = 0 where a caption is to be written.
    path: of the image, where the line has one. label: as written.
    """

    image: str
    name: str
    ids: np.ndarray
    path: str | None = None
    label: str | None = None


def read_text_line(line: str, *, where: object = "this line") -> ReleasedText:
    """A line of 5, 8, 14 or 16 fields, by their number; of the last two the regions are not looked at."""
    count = line.count(";") + 1
    if count not in LAYOUTS:
        expected = "5 (Flickr30k), 8 (COCO of UNIMO-2), 14 (SNLI-VE) or 16 (COCO)"
        raise DataError("Wrong number of fields", where=where, got=count, expected=expected, do=_DO)
    fields = regions._fields(line, LAYOUTS[count], where)
    names = ["token ids", "positions", *(["segment labels"] if "segment labels" in fields else [])]
    ids = regions._rows(fields, names, where)[0]
    name = fields["pair" if count == 14 else "caption"].strip()
    image = fields["image"].strip()
    if count in (8, 16):
        image = image[regions.IMAGE_PREFIX :]
    if not image or not name:
        missing = "image" if not image else "caption or pair"
        place = f"{where}, {missing}"
        raise DataError("A line without a name", where=place, got="nothing", expected="a number", do=_DO)
    if not len(ids) and count in (5, 14):
        raise DataError("A text without words", where=f"{where}, token ids", expected="[CLS] words [SEP]", do=_DO)
    label = fields["label"].strip() if "label" in fields else None
    return ReleasedText(image, name, ids, fields.get("path", "").strip() or None, label)


def read_regions_line(line: str, *, where: object = "this line") -> tuple[str, dict[str, Any]]:
    """The image of a line of 14 or 16 fields, and the arrays of its regions under the names of
    `unimo.regions.detector_files.found_in`. Features are as many as the table of the line has in a row."""
    count = line.count(";") + 1
    if count not in (14, 16):
        raise DataError("Wrong number of fields", where=where, got=count, expected="14 (SNLI-VE) or 16 (COCO)", do=_DO)
    fields = regions._fields(line, LAYOUTS[count], where)
    rows = regions._number(fields, "number of boxes", where)
    if not rows:
        raise DataError("No boxes", where=f"{where}, number of boxes", got=0, expected="1 or more", do=_DO)
    found: dict[str, Any] = {name: regions._number(fields, name, where) for name in ("width", "height")}
    found["boxes"] = regions._floats(fields, "boxes", rows, 4, where)
    found["features"] = table(fields, "features", rows, where)
    if fields.get("class probabilities"):
        found["classes"] = table(fields, "class probabilities", rows, where)
    image = fields["image"].strip()
    return (image[regions.IMAGE_PREFIX :] if count == 16 else image), found


def regions_of(line: str, *, where: object = "this line") -> ImageRegions:
    """The regions of a line of 14 or 16 fields, checked, [IMG] in front."""
    _, found = read_regions_line(line, where=where)
    values = {name: found[name] for name in ("features", "boxes", "width", "height")}
    return regions.image_regions(**values, classes=found.get("classes"), where=where)


def table(fields: dict[str, str], name: str, rows: int, where: object) -> np.ndarray:
    """(rows, any) float32: as many columns as the text has."""
    return regions._floats(fields, name, rows, max(1, columns_of(fields[name], rows)), where)


def columns_of(text: str, rows: int) -> int:
    """How many float32 a row has, if a base64 text of these rows is whole."""
    return (len(text) // 4 * 3 - text.count("=")) // 4 // max(rows, 1)


LAYOUTS = {5: FLICKR_FIELDS, 8: UNIMO2_FIELDS, 14: ENTAILMENT_FIELDS, 16: regions.CAPTION_FIELDS}
