"""What a module pulls in: its own imports, and theirs, within the package.

    python scripts/import_closure.py            every entry of LIMITS with its number of modules and lines
    python scripts/import_closure.py --check [MODULE ...]    the same, of these entries; fails where one is above
    python scripts/import_closure.py MODULE     the modules behind one

Imports inside functions and for type checkers do not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# module -> (modules at most, lines at most)
LIMITS = {
    "unimo.objectives.masked_language_modeling": (20, 4_000),
    "unimo.inference.model": (40, 7_000),
    "unimo.finetune.job": (140, 15_000),
}


def file_of(module: str) -> Path | None:
    """The file of a module of the package, None for any other name."""
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports when it is imported itself, type checks apart."""
    nodes = list(ast.parse(path.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("unimo"):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if file_of(whole) else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("unimo"))
        elif isinstance(node, (ast.Try, ast.If)) and "TYPE_CHECKING" not in ast.dump(node):
            nodes += ast.iter_child_nodes(node)


def closure(module: str) -> dict[str, Path]:
    """The module and all it pulls in, packages' own files included where they hold code."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += imported(path)
    return found


def main(arguments: list[str]) -> int:
    checks = "--check" in arguments[:1]
    names = arguments[1:] if checks else arguments
    if names and not checks:
        print("\n".join(sorted(closure(names[0]))))
        return 0
    over = False
    for module, (modules, lines) in LIMITS.items():
        if names and module not in names:
            continue
        found = closure(module)
        total = sum(len(path.read_text().splitlines()) for path in found.values())
        over |= len(found) > modules or total > lines
        print(f"{module}: {len(found)} modules (at most {modules}), {total:,} lines (at most {lines:,})")
    return int(over and checks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
