"""The command line as a whole: which verbs there are, what help costs, and how a fault ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from unimo.cli import app, main
from unimo.cli.common import prepare
from unimo.errors import UnimoError, UsageError


def test_help_shows_every_verb_in_the_order_of_work():
    command = get_command(app)
    names = [name for name in command.commands if name != "prepare"]
    assert names == [
        "pretrain", "evaluate", "finetune", "quadrants", "predict", "compare", "bench", "recipes", "describe", "index",
        "search", "caption", "fill", "classify", "convert", "initialise",
    ]  # fmt: skip
    assert list(get_command(prepare).commands) == ["index", "regions", "rewrites", "neighbours"]
    assert all(one.help for one in command.commands.values())


def test_help_does_not_wait_for_torch():
    code = "import sys, unimo.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (UsageError("not so", where="--here", got=1), UsageError.exit_code, ["error: not so", "  where:    --here"]),
        (ZeroDivisionError("by zero"), UnimoError.exit_code, ["fault of unimo's own", "test_cli.py", "by zero"]),
    ],
)
def test_every_fault_ends_as_readable_lines_and_its_own_code(fault, code, told, monkeypatch, capsys):
    def fails(*_, **__):
        raise fault

    monkeypatch.setattr("unimo.compare.compare", fails)
    monkeypatch.setattr(sys, "argv", ["unimo", "compare", "a", "b"])
    monkeypatch.delenv("UNIMO_TRACEBACK", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == code and all(part in error for part in told) and "Traceback" not in error
