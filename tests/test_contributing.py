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
BLOCK = re.compile(r"^( *)<!-- (file|row|entry) (\S+) -->\n\1```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ROW_BEFORE, IMPORT_AFTER = "    def active(self)", "from unimo.config import"  # of the objectives' table


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "unimo", folder / "unimo", ignore=shutil.ignore_patterns("__pycache__"))
    found = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert sorted(kind for _, kind, _, _ in found) == ["entry", "file", "row"]
    for _, kind, name, code in found:
        path, code = folder / name, textwrap.dedent(code)
        if kind == "file":
            assert not path.exists()
            path.write_text(code)
        elif kind == "entry":
            path.write_text(path.read_text() + code)
        else:
            text = path.read_text()
            assert text.count(ROW_BEFORE) == 1
            text = text.replace(ROW_BEFORE, f"    {code.strip()}\n\n{ROW_BEFORE}")
            needed = "from unimo.objectives.short_cls import ShortCLS\n"
            path.write_text(text.replace(IMPORT_AFTER, needed + IMPORT_AFTER, 1))
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


def test_a_benchmark_is_an_entry(copy):
    """Its settings are found by its name, and it is listed with its command."""
    told = run(
        copy,
        textwrap.dedent("""
            from unimo.recipes.finetuning import find_tuning, story
            print(find_tuning("politeness").read.max_length, story("politeness"))
        """),
    )
    assert told.startswith("64 ") and "unimo finetune politeness --init-from RUN --train train.csv" in told
