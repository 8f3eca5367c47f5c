"""Keeps docs/papers.md true: each of its links names a file and a symbol there, and leads to the symbol's line.

    python scripts/papers.py            writes the links anew
    python scripts/papers.py --check    changes nothing; fails where a symbol is gone or has moved

A link is written [`unimo/model/heads.py` Pooler.forward](); what belongs in the parentheses is found here.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/papers.md"
LINK = re.compile(r"\[`([^`]+)` ([\w.]+)\]\(([^)]*)\)")
COLUMNS = ["what", "where", "code", "test"]
UNLINKED = ("not built yet", "not needed", "none yet")  # how a cell of code or test begins that has no link


def linked(page: str, root: Path) -> tuple[str, list[str]]:
    """The page with every link on its symbol's line, and a sentence for everything that is wrong with its rows."""
    lines, wrong = [], []
    for number, line in enumerate(page.splitlines(), 1):
        new, faults = relinked(line, root)
        lines.append(new)
        wrong += [f"{PAGE}, line {number}, {line.strip('| ')[:40]!r}: {fault}" for fault in faults]
    return "\n".join([*lines, ""]), wrong


def relinked(line: str, root: Path) -> tuple[str, list[str]]:
    """One line of the page anew, and its faults. A link that leads nowhere stays as it is."""
    faults = []
    for path, name, target in LINK.findall(line):
        try:
            there = f"../{path}#L{line_of(root / path, name)}"
        except LookupError as error:
            faults.append(f"{path} {name}: {error}")
            continue
        line = line.replace(f"[`{path}` {name}]({target})", f"[`{path}` {name}]({there})")
    cells = line.strip("| ").split(" | ")
    if not line.startswith("| ") or cells == COLUMNS or set(line) <= set("| -"):
        return line, faults
    if len(cells) != len(COLUMNS):
        faults.append(f"{len(cells)} cells instead of {len(COLUMNS)}")
    for kind, cell in list(zip(COLUMNS, cells))[2:]:
        if "](" in LINK.sub("", cell) or not (LINK.search(cell) or cell.startswith(UNLINKED)):
            faults.append(f"its {kind} is neither links [`file` symbol]() nor one of: {', '.join(UNLINKED)}")
    return line, faults


def line_of(path: Path, name: str) -> int:
    """Where a function, class, method, field or constant begins. LookupError says why that cannot be told."""
    at: ast.AST = parsed(path)
    for part in name.split("."):
        found = [node for node in getattr(at, "body", []) if part in defined(node)]
        if not found:
            raise LookupError(f"there is no {part}")
        at = found[0]
    return at.lineno


@functools.cache
def parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except FileNotFoundError:
        raise LookupError("there is no such file") from None
    except SyntaxError as error:
        raise LookupError(f"the file cannot be parsed, line {error.lineno}: {error.msg}") from None


def defined(statement: ast.stmt) -> set[str]:
    """The names that one statement of a module or class gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return {part.id for target in targets if target for part in ast.walk(target) if isinstance(part, ast.Name)}


if __name__ == "__main__":
    page = (ROOT / PAGE).read_text()
    text, wrong = linked(page, ROOT)
    if "--check" not in sys.argv[1:]:
        (ROOT / PAGE).write_text(text)
    elif text != page:
        moved = [i for i, (old, new) in enumerate(zip(page.splitlines(), text.splitlines()), 1) if old != new]
        wrong.append(f"{PAGE}, lines {', '.join(map(str, moved))}: symbols have moved, run python scripts/papers.py")
    if wrong:
        sys.exit("\n".join(wrong))
