"""Which fields of a record are looked at: guessed by the names that people give them, or named by the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unimo.errors import DataError, UsageError, nearest

Names = tuple[str, ...]


def _cased(*names: str) -> Names:
    """Names as they stand, then as spreadsheets begin them, then in capitals."""
    return tuple(dict.fromkeys(style(name) for style in (str, str.capitalize, str.upper) for name in names))


IMAGE_PATH_NAMES: Names = (
    *("image", "image_path", "filepath", "file_path", "file_name", "filename", "image_name", "image_file", "img_path"),
    *("img", "picture"),
)
IMAGE_NAMES: Names = _cased(*IMAGE_PATH_NAMES, "path", "jpg", "jpeg", "png", "webp")
PLAIN_CAPTION_NAMES: Names = ("captions", "caption", "text")  # also of the .json beside an image
CAPTION_NAMES: Names = _cased(
    *PLAIN_CAPTION_NAMES,
    *("title", "texts", "comment", "description", "alt_text", "alt", "sentence", "raw", "blip_caption"),
)
TEXT_NAMES: Names = _cased(
    *("text", "content", "sentence", "document", "article", "body", "passage", "raw_content", "story", "abstract"),
)
LABEL_NAMES: Names = ("label_name", "label", "class", "category")
ADDRESS_NAMES: Names = ("url", "URL", "image_url", "img_url")
_IMAGE_FILE = re.compile(r"(?i).+\.(jpe?g|png|webp|gif|bmp|tiff?|avif)")
DOWNLOAD = (
    "img2dataset --url_list FILE --input_format csv --url_col url --caption_col caption --output_format webdataset "
    "--output_folder my/tars fetches them; then name my/tars"
)
EXAMPLE = {
    "image": '{"image": "photos/1.jpg", "caption": "a dog"}',
    "caption": '{"image": "photos/1.jpg", "caption": "a dog"}',
    "text": '{"text": "It rained."}',
}


@dataclass(frozen=True)
class Fields:
    """Names of JSON fields and table columns; the first that a record has is taken.

    text: of a document. image: its path, or bytes. captions: a string or a list of strings. label: class of an image.
    split: values of the field `split` that are read; none: all, and of Karpathy's files train, restval and val.
    """

    text: Names = TEXT_NAMES
    image: Names = IMAGE_NAMES
    captions: Names = CAPTION_NAMES
    label: Names = LABEL_NAMES
    split: Names = ()

    def parts(self, kind: Literal["texts", "images", "pairs"]) -> tuple[Names, ...]:
        """The names of what a sample of a kind consists of."""
        return {"texts": (self.text,), "images": (), "pairs": (self.captions, self.image)}[kind]

    @classmethod
    def of(cls, given: Sequence[str]) -> Fields:
        """Of PART=COLUMN texts, such as caption=title. UsageError for an unknown part."""
        parts = columns(given)
        known = {name: name for name in ("text", "image", "captions", "label", "split")} | {"caption": "captions"}
        for part in parts:
            if part not in known:
                near = nearest(part, known)
                do = f"did you mean {near}?" if near else "caption=title reads captions from the column title"
                expected = ", ".join(known)
                raise UsageError("unknown part of a sample", where="--column", got=part, expected=expected, do=do)
        return replace(cls(), **{known[part]: tuple(names) for part, names in parts.items()})


def columns(given: Iterable[str]) -> dict[str, list[str]]:
    """part=column texts as part -> columns. UsageError for one that is not of this form."""
    found: dict[str, list[str]] = {}
    for text in given:
        part, equals, column = (piece.strip() for piece in text.partition("="))
        if not (part and equals and column):
            what, do = "a column must be named part=column", "write the part, = and the column's name"
            raise UsageError(what, where="--column", got=text, expected="caption=title, label=mood", do=do)
        found.setdefault(part, []).append(column)
    return found


def first_of(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def without(values: Mapping[str, Any], parts: Iterable[Sequence[str]]) -> dict[str, Any]:
    """A record without the fields that play these parts."""
    used = {next((name for name in names if values.get(name) is not None), None) for names in parts}
    return {name: value for name, value in values.items() if name not in used}


def image_columns(values: Mapping[str, Any]) -> list[str]:
    """Fields whose value is called like an image file."""
    return [name for name, value in values.items() if isinstance(value, str) and _IMAGE_FILE.fullmatch(value)]


def missing_field(values: Mapping[str, Any], where: str, part: str, names: Sequence[str]) -> DataError:
    """The error of a record without a field: what it has, an example, and how to name another."""
    there, files = [name for name in values if name], image_columns(values)
    free = [name for name in there if isinstance(values[name], (str, list)) and name not in (*IMAGE_NAMES, *files)]
    addresses = part == "image" and any(name in ADDRESS_NAMES or name.startswith("http") for name in there)
    likely = files[:1] if part == "image" else sorted(free, key=lambda name: -len(values[name]))[:1]
    column = nearest(names[0], there) or (likely[0] if likely else "NAME")
    if image_columns(dict(zip(there, there))):
        expected, do = "names of columns, as image,caption", "write a first line with them; this one is a row"
        return DataError("table without a header", where=where, got=", ".join(there[:8]), expected=expected, do=do)
    written = [*{name.lower(): name for name in reversed(names)}.values()][::-1]  # Text is said by text
    return DataError(
        "field is missing",
        where=where,
        got="fields " + ", ".join(there[:8]),
        expected=f"{part} in {' or '.join(written[:12])}, as in {EXAMPLE.get(part, '{}')}",
        do=DOWNLOAD if addresses else f"name the column (--column {part}={column}), or repair the record",
    )
