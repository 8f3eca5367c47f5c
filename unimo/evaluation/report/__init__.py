"""Report of an evaluation: a dictionary as one self-contained HTML page, as a terminal table, and as strict JSON.

The dictionary (every key optional unless marked *):

    title *    str
    summary    str                       what was trained on what for how long
    facts      {name: value}             how the numbers came about, in this order: command, commit, seed,
                                         machine, checkpoint hash, data, minutes, ...; printed with str()
    scores     [{"task" *:   str         neighboring rows of one task are shown together
                 "metric" *: str
                 "score" *:  Score | its to_dict() | number | None
                 "unit":     str         "%": a fraction 0..1, shown times 100; other text follows the number
                 "note":     str
                 "items":    str         names what was scored: equal for two models scored on the same items
                 "baseline": bool}]      the row is what the task's other rows are to be compared with
    curves     [{"title" *: str, "x": str, "y": str,     axis labels
                 "series" *: {name: [(x, y), ...]}}]     a NaN or None interrupts the line
    tables     [{"title" *: str, "note": str,
                 "columns" *: [str], "rows" *: [[str]]}]     what has another form than scores
    examples   [{"title" *: str, "note": str,            qualitative examples
                 "open": bool,                           shown on the first screen
                 "items" *: [{"image": PIL image | encoded bytes | None, "title": str, "lines": [str]}]}]
    notes      [str]                     what a reader must know to judge the numbers
"""

from __future__ import annotations

from unimo.evaluation.report.page import render
from unimo.evaluation.report.terminal import scores_table, tables_text
from unimo.evaluation.report.written import write_json

__all__ = ["render", "scores_table", "tables_text", "write_json"]
