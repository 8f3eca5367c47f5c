"""Keys of a report's dictionary (their meaning: `unimo.evaluation.report`), their check, and the report as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimo.errors import DataError, nearest
from unimo.html_pages import write_text
from unimo.metrics.intervals import Score

Report = Mapping[str, Any]

_KEYS = {  # required, optional
    "report": (("title",), ("summary", "facts", "scores", "tables", "curves", "examples", "notes")),
    "scores": (("task", "metric", "score"), ("unit", "note", "baseline")),
    "tables": (("title", "columns", "rows"), ("note",)),
    "curves": (("title", "series"), ("x", "y")),
    "examples": (("title", "items"), ("note",)),
    "items": ((), ("image", "title", "lines")),
}


def check(report: Report) -> None:
    """Raises DataError for an entry that is no dictionary, an unknown key and a missing one."""
    for where, kind, entry in _entries(report):
        if not isinstance(entry, Mapping):
            raise DataError("a report entry is not a dictionary", where=where, got=type(entry).__name__)
        required, optional = _KEYS[kind]
        for key in entry:
            if key not in required + optional:
                near = nearest(str(key), required + optional)
                do, expected = f"did you mean {near!r}?" if near else None, ", ".join(required + optional)
                raise DataError("unknown key in a report", where=where, got=key, expected=expected, do=do)
        missing = [key for key in required if key not in entry]
        if missing:
            raise DataError("a key is missing in a report", where=where, expected=", ".join(missing))


def _entries(report: Report) -> Iterator[tuple[str, str, Any]]:
    """(where, kind, dictionary) of every dictionary with fixed keys."""
    yield "report", "report", report
    for kind in ("scores", "tables", "curves", "examples"):
        for i, entry in enumerate(report.get(kind, ())):
            yield f"{kind}[{i}]", kind, entry
            if kind == "examples":
                for j, item in enumerate(entry.get("items", ())):
                    yield f"examples[{i}].items[{j}]", "items", item


def write_json(report: Report, path: str | Path) -> None:
    """Writes the report as strict JSON, whole or not at all; images are left out.

    JSON knows no NaN or infinity: such numbers become null, and a note says which. `render` takes the result back.
    """
    check(report)
    undefined: list[str] = []
    data = _jsonable(report, "", undefined)
    if undefined:
        data["notes"] = [*data.get("notes", ()), f"not a finite number, written as null: {', '.join(undefined)}"]
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _jsonable(value: Any, where: str, undefined: list[str]) -> Any:
    """Plain JSON types; images dropped, non-finite numbers None and listed in `undefined`."""
    if isinstance(value, Score):
        value = value.to_dict()
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        kept = {str(k): v for k, v in value.items() if not isinstance(v, (Image.Image, bytes, bytearray))}
        return {k: _jsonable(v, f"{where}.{k}".lstrip("."), undefined) for k, v in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v, f"{where}[{i}]", undefined) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        undefined.append(f"{where} ({value})")
        return None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DataError("a report holds something JSON cannot", where=where, got=type(value).__name__)
