"""Two result files of `unimo speed`, before and after: what became better and what worse.

A measure is better or worse where its rounds before and after lie apart. Between equals, by chance, that is one in ten
with three rounds in each file, and one in 1,700 with seven.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimo.errors import DataError
from unimo.formats.text import read_jsonl
from unimo.formatting import markdown_table, with_interval
from unimo.metrics.verdict import verdict

LARGER_IS_BETTER = ("speed-up", "fraction", "fewer", "lowest cosine")  # beginnings of such measures
Score = Mapping[str, float]  # value, and low, high, n of rounds
Scores = dict[tuple[str, str], Score]  # (row, measure) -> score


def compare(before: str | Path, after: str | Path) -> list[str]:
    """Lines of a page: how the machines differ, then a row for each measure. DataError: a file without timings.

    A row is known by its words and whole numbers, so that one of another size, or of another peer, stands for itself.
    """
    (machine, first), (other, second) = (_read(Path(path)) for path in (before, after))
    facts = [f"{fact}: {was}, then {other[fact]}" for fact, was in machine.items() if other.get(fact, was) != was]
    rows = [["row", "measure", "before", "after", "after / before", "after is"]]
    for key in dict.fromkeys([*first, *second]):
        was, now = first.get(key), second.get(key)
        shown = ["–" if each is None else with_interval(each) for each in (was, now)]
        rows.append([*key, *shown, *_judged(was, now, key[1].startswith(LARGER_IS_BETTER))])
    return [*facts, *([""] if facts else []), *markdown_table(*rows)]


def _judged(was: Score | None, now: Score | None, larger_is_better: bool) -> tuple[str, str]:
    """The ratio with its spread, and the verdict."""
    if was is None or now is None:
        return "–", "only after" if was is None else "only before"
    if min(*was.values(), *now.values()) <= 0:
        return "–", "unknown"
    ratio = {"value": now["value"] / was["value"]}
    if min(was.get("n", 1), now.get("n", 1)) < 2:
        return with_interval(ratio), "unknown: one round"
    ratio |= {"low": now["low"] / was["high"], "high": now["high"] / was["low"]}
    return with_interval(ratio), verdict(now, was, smaller_is_better=not larger_is_better)


def _read(path: Path) -> tuple[Mapping[str, Any], Scores]:
    """Facts of the machine, and every score."""
    machine: Any = {}
    found: Scores = {}
    for line in read_jsonl(path):
        if isinstance(line, DataError):
            raise line
        machine = line.values.pop("machine", machine)
        named = {name: value for name, value in line.values.items() if isinstance(value, (str, int))}
        row = ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in named.items())
        for name in line.values.keys() - named.keys():
            value = line.values[name]
            score = {"value": value} if isinstance(value, float) else value
            if (row, name) in found:
                raise DataError("a row stands there twice", where=f"{line.where}: {row}", do="one run in each file")
            found[row, name] = score
    if not found or not isinstance(machine, dict) or not all(map(_is_score, found.values())):
        do = "unimo speed NAME > before.jsonl"
        raise DataError("no timings", where=path, expected="lines of `unimo speed`", do=do)
    return machine, found


def _is_score(value: Any) -> bool:
    parts = value if isinstance(value, dict) else {}
    known = parts.keys() in ({"value"}, {"value", "low", "high", "n"})
    return known and all(isinstance(part, (int, float)) for part in parts.values())
