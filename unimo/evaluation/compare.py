"""Comparison of evaluated runs side by side: settings that differ, and every score with its verdict beside the first.

A score is better or worse than the first run's where their 95 % intervals lie apart (`unimo.metrics.verdict`). Values
that are no measurement with an interval, such as the dictionary's perplexity, are shown without a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimo.config import diff
from unimo.errors import DataError, UsageError, nearest
from unimo.formatting import with_interval
from unimo.json_files import load_json
from unimo.metrics.verdict import is_smaller_better, verdict

IGNORED = ("seed", "data.index_dir", "save_minutes", "keep", "log", "workers")
REPORT, SETTINGS, SUITE, SWEEP = "evaluation.json", "settings.json", "benchmark.json", "summary.json"
Row = Mapping[str, Any]


def compare(folders: Sequence[str | Path], *, tasks: Sequence[str] = ()) -> list[str]:
    """Lines of a Markdown page: first what was set otherwise than in the first run, then one row a score.

    folders: runs, or folders or JSON files of reports, pre-trained or fine-tuned, or of `unimo benchmark`. tasks: only
    tasks whose name contains one of these. A score stands with its 95 % interval; a run without it has a dash.
    Raises UsageError for a folder without a report, with the command that makes it, and DataError for a broken one.
    """
    if len(folders) < 2:
        raise UsageError("one run is no comparison", got=len(folders), expected="two or more folders")
    paths = [Path(folder) for folder in folders]
    reports = [_scores(path) for path in paths]
    names = [path.name for path in paths]
    if len({*names}) < len(names):  # runs/a/scenes and runs/b/scenes
        names = [str(path) for path in paths]
    settings = [_settings(path / SETTINGS) for path in paths]
    lines = [_line("setting", *names), _line(*["---"] * (1 + len(names)))]
    lines += [_line(key, *values) for key, values in _differences(settings)]
    verdicts = [f"{name} is" for name in names[1:]] if len(names) > 2 else [f"{names[1]} is, beside {names[0]}"]
    lines += ["", _line("score", *names, *verdicts), _line(*["---"] * (2 * len(names)))]
    rows: dict[tuple[str, str], list[Row | None]] = {}
    for place, report in enumerate(reports):
        for row in report:
            if not tasks or any(word.lower() in row["task"].lower() for word in tasks):
                rows.setdefault((row["task"], row["metric"]), [None] * len(paths))[place] = row
    for (task, metric), here in rows.items():
        cells = ["–" if row is None else _cell(row["score"], row.get("unit") or "") for row in here]
        smaller = is_smaller_better(metric)
        scores = [None if row is None else row["score"] for row in here]
        found = [verdict(score, scores[0], smaller_is_better=smaller) for score in scores[1:]]
        lines.append(_line(f"{task}: {metric}", *cells, *("–" if one == "unknown" else one for one in found)))
    return lines


def _line(*cells: str) -> str:
    """A row of a Markdown table; what stands in a cell cannot end it."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


# ---- what a folder reports


def _scores(path: Path) -> list[Row]:
    """The score rows of a run, of a report's file or folder, or of the table of a benchmark suite."""
    if path.is_file():
        return _checked(load_json(path), path)
    if (path / REPORT).is_file():
        return _checked(load_json(path / REPORT), path / REPORT)
    if (path / SUITE).is_file():
        return _of_suite(load_json(path / SUITE), path / SUITE)
    raise _missing(path)


def _missing(path: Path) -> UsageError:
    """Why there is no report in a folder, and how to get one."""
    if not path.exists():
        near = nearest(path.name, [each.name for each in path.parent.iterdir()]) if path.parent.is_dir() else None
        do = f"did you mean {path.parent / near}?" if near else "name the folder of a run"
        return UsageError("no such run", where=path, expected=f"a folder with {REPORT}", do=do)
    if (path / SWEEP).is_file():
        runs = sorted(str(each.parent) for each in path.glob(f"*/{REPORT}"))
        do = f"compare its runs: {', '.join(runs[:4])}" + (", ..." if len(runs) > 4 else "")
        return UsageError("a sweep, not a run", where=path, expected=REPORT, do=do)
    do = f"unimo evaluate {path}"
    if (path / SETTINGS).is_file():
        settings = load_json(path / SETTINGS)
        if isinstance(settings, dict) and "kind" in settings:  # a fine-tuned run is scored when it ends
            do = f"let it end: unimo finetune {settings.get('task', 'TASK')} --out {path} --resume, with its options"
    return UsageError("not an evaluated run", where=path, expected=REPORT, do=do)


def _checked(report: Any, where: Path) -> list[Row]:
    """The scores of a report; a table of a benchmark suite kept as a file is one too."""
    if isinstance(report, dict) and "tasks" in report:
        return _of_suite(report, where)
    if not isinstance(report, dict) or not isinstance(report.get("scores"), list):
        raise DataError("not a report of unimo", where=where, expected="scores")
    for i, row in enumerate(report["scores"]):
        _check_row(row, where, f"scores[{i}]", ("task", "metric"))
    return report["scores"]


def _of_suite(table: Any, where: Path) -> list[Row]:
    """Each task's score, and that of its partner from random weights, as score rows."""
    if not isinstance(table, dict) or not isinstance(table.get("tasks"), list):
        raise DataError("not a table of unimo benchmark", where=where, expected="tasks")
    found: list[Row] = []
    for i, row in enumerate(table["tasks"]):
        _check_row(row, where, f"tasks[{i}]", ("task", "metric", "split"))
        task = f"{row['task']}, {row['split']}"
        found.append({**row, "task": task})
        if row.get("from_random") is not None:
            metric = f"{row['metric']}, from random weights"
            other = {**row, "task": task, "metric": metric, "score": row["from_random"]}
            _check_row(other, where, f"tasks[{i}].from_random", ())
            found.append(other)
    return found


def _check_row(row: Any, where: Path, place: str, names: Sequence[str]) -> None:
    """DataError for a row without its names, or whose score is neither a number nor one with an interval."""
    if not isinstance(row, dict) or "score" not in row:
        raise DataError("not a row of scores", where=f"{where}, {place}", expected=f"{', '.join(names)} and score")
    for name in (*names, "unit"):
        value = row.get(name, "" if name == "unit" else None)
        if not isinstance(value, str):
            raise DataError("wrong type of field", where=f"{where}, {place}, {name}", got=value, expected="text")
    score = row["score"]
    values = [score.get(key) for key in ("value", "low", "high")] if isinstance(score, dict) else [score]
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise DataError("not a score", where=f"{where}, {place}", got=repr(score)[:80], expected="a number")


def _settings(path: Path) -> Row | None:
    settings = load_json(path) if path.is_file() else None
    if settings is not None and not isinstance(settings, dict):
        raise DataError("not the settings of a run", where=path, got=type(settings).__name__, expected="an object")
    return settings


# ---- how it is spelled


def _differences(settings: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Settings in which a run differs from the first that has any; only paths and bookkeeping are left out."""
    known = [one for one in settings if one is not None]
    rows: dict[str, list[str]] = {}
    for place, one in enumerate(settings):
        for key, first, here in diff(known[0], one) if one is not None else ():
            if key not in IGNORED:
                rows.setdefault(key, [str(first)] * len(settings))[place] = str(here)
    return list(rows.items())


def _cell(score: Row | float | None, unit: str) -> str:
    return with_interval(score if isinstance(score, Mapping) else {"value": score}, unit)
