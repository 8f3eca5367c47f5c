"""A report as aligned plain text, safe to print in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from unimo.evaluation.report.schema import Report, check
from unimo.evaluation.report.wording import interval, number, plain, score_of


def scores_table(report: Report) -> str:
    """The scores as aligned plain text, one row per score, safe to print in a terminal."""
    check(report)
    rows = [("task", "metric", "score", "95 % interval", "chance", "n", "note")]
    for row in report.get("scores", ()):
        score, unit = score_of(row["score"]), row.get("unit", "")
        rows.append(
            (
                plain(row["task"]),
                plain(row["metric"]),
                number(score.value, unit),
                interval(score, unit),
                "" if score.chance is None else number(score.chance, unit),
                f"{score.n:,}" if score.n else "",
                plain(row.get("note", "")),
            )
        )
    return _aligned(rows, right=(2, 4, 5))


def tables_text(report: Report) -> str:
    """All tables and notes of a report as aligned plain text, safe to print in a terminal."""
    check(report)
    told = []
    for table in report.get("tables", ()):
        rows = [[plain(cell) for cell in row] for row in (table["columns"], *table["rows"])]
        told.append(f"{plain(table['title'])}\n{_aligned(rows)}")
    return "\n\n".join([*told, *map(plain, report.get("notes", ()))])


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells in columns, a line under the first row. right: columns that are flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
