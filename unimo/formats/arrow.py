"""Parquet files and Arrow files (the shards of `datasets.save_to_disk`) as rows, in order or one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.file_access import stat_regular
from unimo.formats.delimited import checked_header
from unimo.formats.text import Row


def read_arrow(path: Path) -> Iterator[Row | DataError]:
    """The rows, as Python values."""
    number = 0
    try:
        checked_header(_schema(path).names, path.name)
        for part in range(_parts(path)):
            for batch in _part(*_identity(path), part).to_batches(max_chunksize=256):  # not all images at once
                for values in batch.to_pylist():
                    yield Row(f"{path.name}, row {number}", values, number)
                    number += 1
    except DataError as error:
        yield error
    except Exception as error:  # pyarrow raises its own classes, OSError, ValueError and more on damaged files
        yield _bad(path, f"behind row {number}", error)


def row_count(path: Path) -> int | None:
    """Rows of a Parquet file, by its footer; None: it cannot be read."""
    try:
        return _open(path).metadata.num_rows
    except Exception:  # as of `schema_of`
        return None


def read_arrow_at(path: Path, row: int) -> dict[str, Any]:
    """One row; the row group it lies in is kept, since neighbours are often read next."""
    try:
        begin = 0
        for part in range(_parts(path)):
            count = _rows_in(*_identity(path), part)
            if row < begin + count:
                return _part(*_identity(path), part).slice(row - begin, 1).to_pylist()[0]
            begin += count
    except DataError:
        raise
    except Exception as error:
        raise _bad(path, f"row {row}", error) from error
    raise _bad(path, f"row {row}", IndexError(f"{begin} rows"))


def schema_of(path: Path) -> dict[str, bool] | None:
    """Name of each column, and whether it holds bytes (plain or in a record, as images); None: it cannot be read."""
    import pyarrow

    try:
        schema = _schema(path)
    except Exception:  # a damaged file: reading it says so
        return None

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    return {field.name: holds_bytes(field.type) for field in schema}


def embedded_image(value: object) -> bytes | None:
    """Image bytes of a cell: plain, or the {bytes, path} record of Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _schema(path: Path) -> Any:
    return _open(path).schema_arrow if _is_parquet(path) else _open(path).schema


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _parts(path: Path) -> int:
    return _open(path).num_row_groups if _is_parquet(path) else 1


def _rows_in(path: Path, size: int, mtime_ns: int, part: int) -> int:
    metadata = _open(path).metadata if _is_parquet(path) else None
    return _part(path, size, mtime_ns, part).num_rows if metadata is None else metadata.row_group(part).num_rows


def _identity(path: Path) -> tuple[Path, int, int]:
    status = stat_regular(path)
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _part(path: Path, size: int, mtime_ns: int, part: int) -> Any:  # size and time: a replaced file is read anew
    """A row group of a Parquet file; all of an Arrow file, which is mapped into memory and not read."""
    file = _open(path)
    return file.read_row_group(part) if _is_parquet(path) else file.read_all()


def _open(path: Path) -> Any:
    stat_regular(path)
    if _is_parquet(path):
        from pyarrow import parquet  # a fifth of a second, which most runs need not spend

        return parquet.ParquetFile(path)
    import pyarrow

    with path.open("rb") as file:
        framed = file.read(6) == b"ARROW1"  # the file format; `datasets` writes the streaming one
    return (pyarrow.ipc.open_file if framed else pyarrow.ipc.open_stream)(pyarrow.memory_map(str(path)))


def _bad(path: Path, place: str, error: Exception) -> DataError:
    what, got = f"cannot read {'Parquet' if _is_parquet(path) else 'Arrow'} file", f"{type(error).__name__}: {error}"
    expected, do = "a complete file", "fetch or write the file again"
    return DataError(what, where=f"{path.name}, {place}", got=got[:200], expected=expected, do=do)
