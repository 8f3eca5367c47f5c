"""The folder of a search index: one LanceDB table of rows, and index.json. D: width of the embeddings.

    rows.lance/      one row for each passage, caption or image, in the order of the corpora
        kind         text or image
        error        null, or the parts of the error (JSON) because of which this row has no embedding
        key, text    of its sample; the passage or caption ("" for an image)
        path, place  its file, and the byte its record begins at in a shard, or -1
        data, item, caption   number of the corpus in index.json, item of the corpus, caption of the item
        begin, end   characters of the document that the passage is
        vector       (D,) float16 of length 1; zeros in a row with an error
    index.json       model, passages and corpora, how many of these are finished, and the version of the table then

Every append is a new version of the table, whole or not at all, and a reader stays at the version that index.json
names. So it sees finished rows only, also while a writer appends, and a killed writer leaves what can be continued.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unimo.errors import DataError, ResourceError, UsageError
from unimo.json_files import load_json
from unimo.paths import missing_hint
from unimo.retrieval.exact import UNIT_TOLERANCE, Vectors

Kind = Literal["text", "image"]
KINDS: tuple[Kind, ...] = ("text", "image")
HEADER, TABLE = "index.json", "rows"
FORMAT = 2
_BLOCK = 16384  # rows whose lengths are looked at together
_STRINGS, _NUMBERS = ("kind", "error", "key", "text", "path"), ("data", "item", "caption", "place", "begin", "end")


def _connect(folder: Path) -> Any:
    os.environ.setdefault("LANCE_LOG", "error")  # it tells of every new table on stderr otherwise
    try:
        import lancedb
    except ImportError:
        raise UsageError("an index needs lancedb", where="index", do="pip install 'unimo[index]'") from None
    return lancedb.connect(str(folder))


def _schema(width: int) -> Any:
    import pyarrow as pa

    fields = [*((name, pa.string()) for name in _STRINGS), *((name, pa.int64()) for name in _NUMBERS)]
    return pa.schema([*fields, ("vector", pa.list_(pa.float16(), width))])


def open_newest(folder: Path, width: int) -> Any:
    """The table of rows for a writer; made if it is not there. UsageError without the extra `index`."""
    database = _connect(folder)
    if (folder / f"{TABLE}.lance").exists():
        return database.open_table(TABLE)
    return database.create_table(TABLE, schema=_schema(width))


def open_finished(folder: Path, header: dict[str, Any]) -> Any:
    """The table of rows at the version that index.json names. DataError where it is missing, damaged or another."""
    with reading(folder):
        table = _connect(folder).open_table(TABLE)
        table.checkout(header["version"])
        if table.schema != _schema(header["width"]):
            raise ValueError(f"columns {table.schema}")
        return table


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Whatever the library raises over a damaged table becomes a DataError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise unusable(folder / f"{TABLE}.lance", error, "the table that `unimo index` wrote") from error


def append(table: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows, each with all columns, as one version. ResourceError where the disk refuses."""
    import pyarrow as pa

    schema = table.schema
    columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in (*_STRINGS, *_NUMBERS)]
    vectors = np.stack([row["vector"] for row in rows]).astype(np.float16)
    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]))
    try:
        table.add(pa.Table.from_arrays(columns, schema=schema))
    except (OSError, RuntimeError) as error:
        do = "free some space or check the folder; the same command goes on where it stopped"
        raise ResourceError("cannot write the index", where=table.uri, got=str(error)[:300], do=do) from error


def finish(table: Any, approximate: bool) -> int:
    """The version of the rows that are there now, safe from clean-ups; with an inverted file over them, if wanted."""
    if approximate:
        from lancedb.index import IvfFlat

        table.create_index("vector", config=IvfFlat(distance_type="dot"))
    if (name := f"finished-{table.version}") not in table.tags.list():
        table.tags.create(name, table.version)
    return table.version


def of(kind: Kind) -> str:
    """The condition of the rows of a kind that have an embedding."""
    return f"kind = '{kind}' AND error IS NULL"


def read(table: Any, where: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    return table.search().where(where).select(list(columns)).to_arrow().to_pylist()


def vectors(folder: Path, table: Any, kind: Kind) -> Vectors:
    """All of a kind. DataError where one is not of length 1."""
    found = table.search().where(of(kind)).select(["vector"]).with_row_id(True).to_arrow()
    ids, order = np.unique(found.column("_rowid").to_numpy(), return_index=True)
    rows = np.concatenate([chunk.flatten().to_numpy() for chunk in found.column("vector").chunks])
    held = Vectors(ids, rows.reshape(len(ids), -1)[order])
    for first in range(0, len(ids), _BLOCK):
        lengths = np.linalg.norm(held.rows[first : first + _BLOCK].astype(np.float32), axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))  # also those that are no numbers
        if len(wrong):
            (row,) = at(table, ids[first + wrong[:1]], ["key"])
            raise not_of_length_one(folder, row["key"], float(lengths[wrong[0]]))
    return held


def not_of_length_one(folder: Path, key: str, length: float) -> DataError:
    return unusable(f"{folder}, row of {key}", f"length {length:.4g}", "length 1")


def at(table: Any, ids: np.ndarray, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some ids, in any order, with `_rowid`."""
    return table.take_row_ids(ids.tolist()).select(list(columns)).with_row_id().to_arrow().to_pylist()


def some(table: Any, kind: Kind, n: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The first n rows of a kind."""
    return table.search().where(of(kind)).select(list(columns)).limit(n).to_arrow().to_pylist()


def read_header(folder: Path) -> dict[str, Any]:
    """index.json, checked. DataError for one that is damaged, or a folder that is no index."""
    path = folder / HEADER
    if not path.is_file():
        expected = "a folder that `unimo index` wrote"
        do = "unimo index MODEL --images FOLDER --out INDEX" if folder.is_dir() else missing_hint(folder)
        raise DataError("not an index", where=folder, got=f"no {HEADER}", expected=expected, do=do)
    header = load_json(path, max_bytes=1 << 26)
    try:
        strings = [header["source"], header["model"]["sha256"]]
        numbers = [header["width"], header["passage"], *(corpus["items"] for corpus in header["data"])]
        if not 0 <= header["finished"] <= len(header["data"]) or type(header["version"]) is not int:
            raise ValueError(f"{header['finished']} of {len(header['data'])} corpora finished")
        for corpus in header["data"]:
            strings += [corpus["fingerprint"], *corpus["paths"], *corpus["region_paths"]]
        sound = all(isinstance(s, str) for s in strings) and all(type(n) is int and n > 0 for n in numbers)
        if header["format"] != FORMAT or not sound:
            raise ValueError(f"format {header['format']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unusable(
            path, f"{type(error).__name__}: {error}", f"what `unimo index` writes (format {FORMAT})"
        ) from error
    return header


def unusable(where: object, got: object, expected: str) -> DataError:
    do = "restore a copy, or remove the folder and run `unimo index` again"
    return DataError("cannot use this index", where=where, got=str(got)[:300], expected=expected, do=do)
