"""Tables whose columns have other names, prepared by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import files_in, image
from typer.testing import CliRunner

from unimo.cli import app

CAPTIONS = ["a red dog runs in the park", "a black cat sleeps on the sofa", "two men ride brown horses"] * 2


@pytest.fixture
def table(tmp_path) -> Path:
    files = {f"{i}.png": image(i, size=(64, 64)) for i in range(len(CAPTIONS))}
    rows = [f"{i}.png,{caption}" for i, caption in enumerate(CAPTIONS)]
    files["t.csv"] = "\n".join(["photo,says", *rows]).encode()
    return files_in(tmp_path, files) / "t.csv"


@pytest.mark.parametrize(
    "verb",
    [
        "regions pairs {} --source grid --words 4",
        "rewrites {} --sentences 1 --positives 0",
        "neighbours --pairs {} --texts {}",
    ],
    ids=["regions", "rewrites", "neighbours"],
)
def test_every_preparation_reads_named_columns(verb, table, tmp_path):
    words = ["prepare", *verb.format(table, table).split(), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code and "no usable sample" in str(refused.exception)
    named = [part for column in ("image=photo", "caption=says", "text=says") for part in ("--column", column)]
    done = CliRunner().invoke(app, [*words, *named])
    assert done.exit_code == 0, done.output or done.exception
    assert list((tmp_path / "out").iterdir())
