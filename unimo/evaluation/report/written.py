"""A report as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimo.errors import DataError
from unimo.html_pages import write_text
from unimo.metrics.intervals import Score

Report = Mapping[str, Any]


def write_json(report: Report, path: str | Path) -> None:
    """Writes the report as strict JSON, whole or not at all; images are left out.

    JSON knows no NaN or infinity: such numbers become null, and a note says which. `render` takes the result back.
    """
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
