"""A report dictionary as one self-contained HTML page, as a table for the terminal, and as strict JSON.

The page asks for nothing outside itself: no script, no link, no font; images are data URIs and a content
security policy forbids the rest. Any text in it may be a stranger's file name or caption, so all is escaped.

The dictionary (every key optional unless marked *; an unknown key is an error):

    title *    str
    facts      {name: value}             how the numbers came about, in this order: command, commit, seed,
                                         machine, checkpoint hash, data, minutes, ...; printed with str()
    scores     [{"task" *:   str         neighbouring rows of one task are shown together
                 "metric" *: str
                 "score" *:  Score | its to_dict() | number | None
                 "unit":     str         "%": a share 0..1, shown times 100; other text follows the number
                 "note":     str}]
    curves     [{"title" *: str, "x": str, "y": str,     axis labels
                 "series" *: {name: [(x, y), ...]}}]     a NaN or None interrupts the line
    tables     [{"title" *: str, "note": str,
                 "columns" *: [str], "rows" *: [[str]]}]     what has another form than scores
    galleries  [{"title" *: str, "note": str,
                 "items" *: [{"image": PIL image | encoded bytes | None, "title": str, "lines": [str]}]}]
    notes      [str]                     what a reader must know to judge the numbers

schema.py checks it; page.py (with plots.py, style.py), terminal.py and strict_json.py show it; wording.py says its
numbers and texts.
"""

from __future__ import annotations

from unimo.evaluation.report.page import render
from unimo.evaluation.report.strict_json import write_json
from unimo.evaluation.report.terminal import scores_table, tables_text

__all__ = ["render", "scores_table", "tables_text", "write_json"]
