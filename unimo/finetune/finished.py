"""Finished runs of a sweep or a benchmark suite: found again, and never passed off as runs of other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimo.config import diff
from unimo.errors import UsageError
from unimo.json_files import load_json, write_json

DONE = "done.json"


def finish(folder: Path, wanted: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> None:
    """Notes that the run in `folder` ended. wanted: what it was to be; result: what is read of it later."""
    write_json(folder / DONE, {"wanted": wanted, "result": result or {}})


def finished(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a finished run, None where there is none. UsageError: it was made with other settings."""
    if not (folder / DONE).is_file():
        return None
    done = load_json(folder / DONE)
    changed = diff(done["wanted"], json.loads(json.dumps(wanted)))
    if changed:
        raise UsageError(
            "a finished run was made with other settings",
            where=folder,
            got=", ".join(f"{key} was {old}, is {new}" for key, old, new in changed[:5]),
            expected="the settings of that run",
            do="choose another --out, or remove this folder",
        )
    return dict(done["result"])
