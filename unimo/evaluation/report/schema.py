"""Which keys the dictionary of a report has (`unimo.evaluation.report` says what they mean), and the check of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unimo.errors import DataError, nearest

Report = Mapping[str, Any]

_KEYS = {
    "report": {"title", "facts", "scores", "tables", "curves", "galleries", "notes"},
    "scores": {"task", "metric", "score", "unit", "note"},
    "tables": {"title", "note", "columns", "rows"},
    "curves": {"title", "x", "y", "series"},
    "galleries": {"title", "note", "items"},
    "items": {"image", "title", "lines"},
}
_REQUIRED = {
    "report": {"title"},
    "scores": {"task", "metric", "score"},
    "tables": {"title", "columns", "rows"},
    "curves": {"title", "series"},
    "galleries": {"title", "items"},
    "items": set(),
}


def check(report: Report) -> None:
    """Raises DataError for an entry that is no dictionary, an unknown key and a missing one."""
    for where, what, entry in _entries(report):
        if not isinstance(entry, Mapping):
            raise DataError("a report entry is not a dictionary", where=where, got=type(entry).__name__)
        for key in entry:
            if key not in _KEYS[what]:
                near = nearest(str(key), _KEYS[what])
                raise DataError(
                    "unknown key in a report",
                    where=where,
                    got=key,
                    expected=", ".join(sorted(_KEYS[what])),
                    do=f"did you mean {near!r}?" if near else None,
                )
        missing = _REQUIRED[what] - set(entry)
        if missing:
            raise DataError("a key is missing in a report", where=where, expected=", ".join(sorted(missing)))


def _entries(report: Report) -> Iterator[tuple[str, str, Any]]:
    """(where, kind, dictionary) of every dictionary with fixed keys."""
    yield "report", "report", report
    for kind in ("scores", "tables", "curves", "galleries"):
        for i, entry in enumerate(report.get(kind, ())):
            yield f"{kind}[{i}]", kind, entry
            if kind == "galleries":
                for j, item in enumerate(entry.get("items", ())):
                    yield f"galleries[{i}].items[{j}]", "items", item
