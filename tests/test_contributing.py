"""CONTRIBUTING's two recipes, followed literally in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^( *)<!-- (file|row) (\S+) -->\n\1```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# file of the row -> the line it goes before, and the import it needs
PLACES = {
    "unimo/objectives/__init__.py": (
        "    def active(self)",
        "from unimo.objectives.short_cls import ShortCLS\n",
    ),
    "unimo/finetune/benchmarks/__init__.py": (
        "    )\n}",
        "from unimo.finetune.benchmarks.politeness import politeness\n",
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "unimo", folder / "unimo", ignore=shutil.ignore_patterns("__pycache__"))
    found = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert sorted(kind for _, kind, _, _ in found) == ["file", "file", "row", "row"]
    for _, kind, name, code in found:
        path, code = folder / name, textwrap.dedent(code)
        if kind == "file":
            assert not path.exists()
            path.write_text(code)
        else:
            before, needed = PLACES[name]
            text = path.read_text()
            assert text.count(before) == 1
            row = f"    {code.strip()}\n\n" if "objectives" in name else f"        {code.strip()},\n"
            text = text.replace(before, row + before)
            after = "from unimo.config import" if "objectives" in name else "from unimo.finetune.settings import"
            path.write_text(text.replace(after, needed + after, 1))
    return folder


def run(copy: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_objective_is_a_file_and_a_row(copy):
    """It has its setting, is refused for the other model, and its loss goes into a run's log."""
    log = run(
        copy,
        textwrap.dedent("""
            import sys
            from unimo.cli import main
            sys.argv = ["unimo", "pretrain", "scenes", "--out", "runs/x", "--steps", "1", "--no-evaluate"]
            for one in ("model.width=16", "model.heads=2", "batch.pairs=4", "batch.images=0", "batch.text_tokens=0",
                        "workers=0", "precision=fp32", "objectives.short_cls.weight=0.5"):
                sys.argv += ["--set", one]
            try:
                main()
            except SystemExit as end:
                assert not end.code, end.code
            print(open("runs/x/log.jsonl").read())
        """),
    )
    assert float(re.search(r'"short_cls": ([\d.]+)', log)[1]) > 0
    refusal = run(
        copy,
        textwrap.dedent("""
            from unimo.config import check_settings, override
            from unimo.recipes import find
            try:
                check_settings(override(find("unimo-scenes"), ["objectives.short_cls.weight=1"]))
            except Exception as error:
                print(error)
        """),
    )
    assert "objective that unimo does not have" in refusal


def test_a_benchmark_is_a_file_and_a_row(copy):
    told = run(
        copy, "from unimo.recipes.finetuning import find_tuning\nprint(find_tuning('politeness').read.max_length)"
    )
    assert told.strip() == "64"
