"""docs/papers.md leads to code that is there: its links resolve, a lost symbol is named, a moved one is found again."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "papers.py"
CODE = """
HALF, WHOLE = 0.5, 1.0


class Head:
    size: int = 3

    @staticmethod
    def forward(x):
        return x
"""
PAGE = """# Title, with [another link](elsewhere.md)

| what | where | code | test |
| --- | --- | --- | --- |
| both | §1 | [`unimo/heads.py` Head.forward](), [`unimo/heads.py` WHOLE]() | [`tests/test_heads.py` test_it](old#L1) |
| field | §2 | [`unimo/heads.py` Head.size]() | none yet |
| future | §3 | not built yet | none yet |
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path, text in (
        ("unimo/heads.py", CODE),
        ("tests/test_heads.py", "def test_it():\n    pass\n"),
        ("docs/papers.md", PAGE),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    assert run(tmp_path) == ""
    return tmp_path


def run(repository: Path, *options: str) -> str:
    """What the script says; nothing if it is content."""
    command = [sys.executable, "scripts/papers.py", *options]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.stdout == "" and done.returncode == bool(done.stderr)
    return done.stderr


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_every_link_of_the_page_leads_to_a_symbol():
    page = (ROOT / "docs" / "papers.md").read_text()
    assert runpy.run_path(str(SCRIPT))["linked"](page, ROOT)[1] == []


def test_links_are_filled_in(repository):
    rows = (repository / "docs/papers.md").read_text().splitlines()[4:]
    code = "[`unimo/heads.py` Head.forward](../unimo/heads.py#L9), [`unimo/heads.py` WHOLE](../unimo/heads.py#L2)"
    assert rows[0] == f"| both | §1 | {code} | [`tests/test_heads.py` test_it](../tests/test_heads.py#L1) |"
    assert "(../unimo/heads.py#L6)" in rows[1]
    assert rows[2] == PAGE.splitlines()[-1]
    assert run(repository, "--check") == ""


def test_a_stale_number_is_caught_and_repaired(repository):
    page, code = repository / "docs/papers.md", repository / "unimo/heads.py"
    code.write_text("import math\n" + CODE)
    before = page.read_text()
    assert "lines 5, 6" in run(repository, "--check") and page.read_text() == before
    assert run(repository) == "" and "heads.py#L10" in page.read_text()
    assert run(repository, "--check") == ""


@pytest.mark.parametrize(
    "path, old, new, row, said",
    [
        ("unimo/heads.py", "def forward", "def apply", 5, "unimo/heads.py Head.forward: there is no forward"),
        ("unimo/heads.py", "class Head", "class Pooler", 6, "unimo/heads.py Head.size: there is no Head"),
        ("tests/test_heads.py", "test_it", "test_other", 5, "tests/test_heads.py test_it: there is no test_it"),
        ("unimo/heads.py", "return x", "return (x", 5, "unimo/heads.py WHOLE: the file cannot be parsed, line 10"),
        ("docs/papers.md", "heads.py` WHOLE", "tails.py` WHOLE", 5, "unimo/tails.py WHOLE: there is no such file"),
        ("docs/papers.md", "| not built yet |", "| later |", 7, "its code is neither links"),
        ("docs/papers.md", "[`unimo/heads.py` Head.size]", "[Head.size]", 6, "its code is neither links"),
        ("docs/papers.md", "| field |", "| field | of it |", 6, "5 cells instead of 4"),
    ],
)
def test_what_is_wrong_is_said_with_its_row_and_the_rest_is_done(repository, path, old, new, row, said):
    edit(repository / "tests/test_heads.py", "def", "\ndef")
    edit(repository / path, old, new)
    for options in (["--check"], []):
        lines = run(repository, *options).splitlines()
        assert any(line.startswith(f"docs/papers.md, line {row}, ") and said in line for line in lines), lines
    lost_test = path == "tests/test_heads.py"
    assert ("test_heads.py#L2" in (repository / "docs/papers.md").read_text()) != lost_test


@pytest.mark.parametrize("path", sorted((ROOT / "unimo").rglob("*.py")), ids=lambda path: path.stem)
def test_files_that_a_docstring_of_the_package_names_are_there(path):
    """`name.py` in a module's docstring is a file beside it."""
    named = re.findall(r"(?<![\w/.`])(\w+\.py)\b", ast.get_docstring(ast.parse(path.read_text())) or "")
    assert [name for name in named if not (path.parent / name).is_file()] == []
