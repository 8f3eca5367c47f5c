"""Comparison of evaluated runs: an answer in a sentence, the settings that differ, every score with its verdict.

Where two runs were scored on the same items, the difference has a paired 95 % interval and its verdict is that of a
paired test; else a score is better or worse where the two 95 % intervals lie apart (`unimo.metrics.verdict`). Values
that are no measurement with an interval, such as the dictionary's perplexity, are shown without a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimo.config import diff
from unimo.errors import DataError, UsageError
from unimo.evaluation.item_sums import ItemSums, paired, read_sums
from unimo.formatting import markdown_table, with_interval
from unimo.json_files import load_json
from unimo.metrics.paired import Comparison
from unimo.metrics.verdict import is_smaller_better, paired_verdict, verdict
from unimo.paths import missing_hint

IGNORED = ("seed", "data.index_dir", "save_minutes", "keep", "log", "workers")
UNPAIRED = ("data.texts", "data.images")  # settings in which runs with and without unpaired data differ
REPORT, SETTINGS, SUITE, SWEEP = "evaluation.json", "settings.json", "benchmark.json", "summary.json"
ANSWER = ("mean recall", "text to image R@1", "perplexity")  # beginnings of the metrics that answer, the first there is
Row = Mapping[str, Any]
Key = tuple[str, str]  # task and metric


@dataclass(frozen=True)
class Evaluated:
    """What a folder reports: score rows, what items added to them, and the settings of the run."""

    path: Path
    name: str
    rows: dict[Key, Row]
    sums: dict[Key, ItemSums]
    settings: Row | None

    @property
    def unpaired(self) -> list[str]:
        """Kinds of data without captions that the run read."""
        settings = self.settings or {}
        data, batch = settings.get("data", {}), settings.get("batch", {})
        budgets = {"texts": batch.get("text_tokens", 1), "images": batch.get("images", 1)}
        return [kind for kind, budget in budgets.items() if data.get(kind) and budget]


@dataclass(frozen=True)
class Tables:
    """answers: sentences. settings, scores: a header, then rows of cells."""

    answers: list[str]
    settings: list[list[str]]
    scores: list[list[str]]


def compare(folders: Sequence[str | Path], *, tasks: Sequence[str] = ()) -> list[str]:
    """Lines of a Markdown page: a sentence for each run beside the first, the settings that differ, one row a score.

    Arguments and errors as of `compare_tables`.
    """
    found = compare_tables(folders, tasks=tasks)
    tables = [*markdown_table(*found.settings), "", *markdown_table(*found.scores)]
    return [*found.answers, *([""] if found.answers else []), *tables]


def compare_tables(folders: Sequence[str | Path], *, tasks: Sequence[str] = (), baselines: bool = False) -> Tables:
    """What `compare` writes, as tables.

    folders: runs, or folders or JSON files of reports, pre-trained or fine-tuned, or of `unimo benchmark`. tasks: only
    tasks whose name contains one of these. baselines: also rows of random weights, copied captions and the like, which
    say little of a run. A score stands with its 95 % interval; a run without it has a dash.
    Raises UsageError for a folder without a report, with the command that makes it, and DataError for a broken one.
    """
    if len(folders) < 2:
        raise UsageError("one run is no comparison", got=len(folders), expected="two or more folders")
    paths = [Path(folder) for folder in folders]
    short = [path.name for path in paths]
    names = short if len({*short}) == len(short) else [str(path) for path in paths]  # runs/a/scenes and runs/b/scenes
    runs = [_read(path, name, tasks) for path, name in zip(paths, names)]
    verdicts = [f"{name} is" for name in names[1:]] if len(names) > 2 else [f"{names[1]} is, beside {names[0]}"]
    scores = [["score", *names, *verdicts]]
    rows = ((key, row) for run in runs for key, row in run.rows.items())
    for key in dict.fromkeys(key for key, row in rows if baselines or not row.get("baseline")):
        here = [run.rows.get(key) for run in runs]
        cells = ["–" if row is None else _cell(row["score"], row.get("unit") or "") for row in here]
        scores.append([": ".join(key), *cells, *(_verdict(runs[0], run, key) for run in runs[1:])])
    differences = [[key, *values] for key, values in _differences([run.settings for run in runs])]
    answers = [sentence for run in runs[1:] if (sentence := answer(runs[0], run))]
    return Tables(answers, [["setting", *names], *differences], scores)


def _verdict(first: Evaluated, second: Evaluated, key: Key) -> str:
    """The second run's score, seen from the first's: by the same items where they were the same."""
    smaller = is_smaller_better(key[1])
    test = paired(second.sums.get(key), first.sums.get(key))
    if test is not None:
        unit = second.rows[key].get("unit") or ""
        return f"{paired_verdict(test, smaller_is_better=smaller)} ({_difference(test, unit)})"
    scores = [run.rows[key]["score"] if key in run.rows else None for run in (second, first)]
    found = verdict(scores[0], scores[1], smaller_is_better=smaller)
    return "–" if found == "unknown" else found


def answer(first: Evaluated, second: Evaluated) -> str:
    """One sentence: which run is better, by how much, on how many items; and whether unpaired data made it so."""
    shared = [key for key in first.rows if key in second.rows]
    key = next((key for start in ANSWER for key in shared if key[1].startswith(start)), None)
    if key is None or _verdict(first, second, key) == "–":
        return ""
    with_data, without = (first, second) if first.unpaired else (second, first)
    helped = bool(with_data.unpaired) and not without.unpaired
    better, worse = (with_data, without) if helped else (second, first)
    test, unit = paired(better.sums.get(key), worse.sums.get(key)), better.rows[key].get("unit") or ""
    ends = " against ".join(_cell(run.rows[key]["score"], unit) for run in (better, worse))
    if test is not None:
        count = f"{test.difference.n:,} items"
        ends += f", a difference of {_difference(test, unit)} on the same {count} (paired 95 % interval)"
    found = _verdict(worse, better, key).partition(" (")[0]
    measured = f"{key[1]} ({key[0]}) is {ends}."
    if not helped:
        found = "no different from" if found == "no difference" else f"{found} than"
        return f"{better.name} is {found} {worse.name}: {measured}"
    data = " and ".join(with_data.unpaired)
    say = {"better": "Yes, your unpaired data helped", "worse": "No, your unpaired data did harm"}
    start = say.get(found, "No difference that these items can show")
    differ = [name for name, _ in _differences([worse.settings, better.settings])]
    others = [name for name in differ if not name.startswith((*UNPAIRED, "batch."))]
    warning = f" But they differ in more: {', '.join(others[:3])}." if others else ""
    return f"{start}: with {data} ({better.name}) and without ({worse.name}), {measured}{warning}"


# ---- what a folder reports


def _read(path: Path, name: str, tasks: Sequence[str]) -> Evaluated:
    """A run, a report's file or folder, or the table of a benchmark suite."""
    file = next((each for each in (path, path / REPORT, path / SUITE) if each.is_file()), None)
    if file is None:
        raise _missing(path)
    rows = {(row["task"], row["metric"]): row for row in _rows(load_json(file), file)}
    kept = {key: row for key, row in rows.items() if not tasks or any(word.lower() in key[0].lower() for word in tasks)}
    settings = load_json(path / SETTINGS) if (path / SETTINGS).is_file() else None
    if settings is not None and not isinstance(settings, dict):
        raise DataError(
            "not the settings of a run", where=path / SETTINGS, got=type(settings).__name__, expected="an object"
        )
    return Evaluated(path, name, kept, read_sums(file.with_suffix(".npz")), settings)


def _missing(path: Path) -> UsageError:
    """Why there is no report in a folder, and how to get one."""
    if not path.exists():
        return UsageError("no such run", where=path, expected=f"a folder with {REPORT}", do=missing_hint(path))
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


def _rows(report: Any, where: Path) -> list[Row]:
    """The scores of a report, or of a benchmark suite: each task's, and that of its partner from random weights."""
    table = next((name for name in ("tasks", "scores") if isinstance(report, dict) and name in report), None)
    if table is None or not isinstance(report[table], list):
        raise DataError("not a report of unimo", where=where, expected="scores")
    names = ("task", "metric", "split") if table == "tasks" else ("task", "metric")
    found: list[Row] = []
    for i, row in enumerate(report[table]):
        _check_row(row, where, f"{table}[{i}]", names)
        found.append({**row, "task": f"{row['task']}, {row['split']}"} if table == "tasks" else row)
        if table == "tasks" and row.get("from_random") is not None:
            found.append({**found[-1], "metric": f"{row['metric']}, from random weights", "score": row["from_random"]})
            _check_row(found[-1], where, f"{table}[{i}].from_random", ())
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


def _difference(paired: Comparison, unit: str) -> str:
    return with_interval(paired.difference.to_dict(), unit, signed=True)
