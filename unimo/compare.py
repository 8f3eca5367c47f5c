"""Several evaluated runs side by side: what differs in their settings, and every score they share, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimo.config import diff
from unimo.errors import DataError, UsageError
from unimo.json_files import load_json

IGNORED = ("seed", "data.index_dir", "save_minutes", "keep", "tensorboard", "workers")


def compare(folders: Sequence[str | Path], *, tasks: Sequence[str] = ()) -> list[str]:
    """Lines of a Markdown page: first what was set otherwise than in the first run, then one row a score.

    folders: runs (or folders of a report) that hold evaluation.json, and settings.json where they are runs. tasks: only
    tasks whose name contains one of these. A score stands with its 95 % interval; a run that was not asked has a dash.
    """
    if len(folders) < 2:
        raise UsageError("one run is no comparison", got=len(folders), expected="two or more folders")
    paths = [Path(folder) for folder in folders]
    reports = [_read(path / "evaluation.json") for path in paths]
    names = [path.name for path in paths]
    if len({*names}) < len(names):  # runs/a/scenes and runs/b/scenes
        names = [str(path) for path in paths]
    lines = ["| setting | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    settings = [load_json(path / "settings.json") if (path / "settings.json").is_file() else None for path in paths]
    lines += [f"| {key} | " + " | ".join(values) + " |" for key, values in _differences(settings)]
    lines += ["", "| score | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    rows: dict[str, list[str]] = {}
    for place, report in enumerate(reports):
        for row in report["scores"]:
            if not tasks or any(word.lower() in row["task"].lower() for word in tasks):
                key = f"{row['task']}: {row['metric']}"
                rows.setdefault(key, ["–"] * len(paths))[place] = _spelled(row["score"], row.get("unit", ""))
    return lines + [f"| {key} | " + " | ".join(values) + " |" for key, values in rows.items()]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError("not an evaluated run", where=path, expected="evaluation.json", do="unimo evaluate FOLDER")
    report = load_json(path)
    if not isinstance(report, dict) or not isinstance(report.get("scores"), list):
        raise DataError("not a report of unimo", where=path, expected="scores")
    return report


def _differences(settings: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Settings in which a run differs from the first that has any; only paths and bookkeeping are left out."""
    known = [one for one in settings if one is not None]
    rows: dict[str, list[str]] = {}
    for place, one in enumerate(settings):
        for key, first, here in diff(known[0], one) if one is not None else ():
            if key not in IGNORED:
                rows.setdefault(key, [str(first)] * len(settings))[place] = str(here)
    return list(rows.items())


def _spelled(score: dict[str, Any], unit: str) -> str:
    value, low, high = score.get("value"), score.get("low"), score.get("high")
    if value is None:
        return "undefined"
    times, sign = (100, " %") if unit == "%" else (1, f" {unit}" if unit else "")
    digits = 1 if unit == "%" else 3
    told = f"{value * times:.{digits}f}{sign}"
    return told if low is None or high is None else f"{told} [{low * times:.{digits}f}, {high * times:.{digits}f}]"
