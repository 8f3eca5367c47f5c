"""The command line as a whole: which verbs there are, what help costs, and how a fault ends."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys

import pytest
from typer.main import get_command

from unimo.cli import app, main
from unimo.cli.app import prepare, repeated
from unimo.cli.failures import Terminated, named, print_error, sigterm_as_error, terminated
from unimo.cli.help import EXAMPLES, VERBS
from unimo.errors import DataError, ResourceError, UnimoError, UsageError


def test_help_shows_every_verb_in_the_order_of_work():
    command = get_command(app)
    names = [name for name in command.commands if name not in ("data", "prepare")]
    assert names == [
        "pretrain", "evaluate", "finetune", "sweep", "benchmark", "predict", "compare", "speed", "recipes", "describe",
        "plan", "index", "search", "caption", "classify", "answer", "encode", "fill-mask", "serve", "download",
        "convert", "export", "init-from-pretrained",
    ]  # fmt: skip
    assert list(get_command(prepare).commands) == ["regions", "rewrites", "neighbours"]
    assert all(one.help for one in command.commands.values())


def commands(group, prefix=()):
    for name in group.commands:
        command = group.get_command(None, name)
        yield from commands(command, (*prefix, name)) if hasattr(command, "commands") else [((*prefix, name), command)]


def test_every_verb_has_its_group_and_every_example_can_be_read():
    group = get_command(app)
    assert {verb for verbs in VERBS.values() for verb in verbs} == set(group.commands)
    by_name = {" ".join(names): command for names, command in commands(group)}
    for verb, examples in EXAMPLES.items():
        for example in examples:
            words = shlex.split(example)[shlex.split(example).index("unimo") + 1 :]
            assert (
                words[0] == verb
                and not by_name[verb].make_context(verb, repeated(by_name[verb].params, words[1:])).args
            )
            assert example in by_name[verb].epilog


def test_every_verb_that_reads_tables_of_samples_can_be_told_their_columns():
    read = {"pretrain", "evaluate", "finetune", "sweep", "predict", "index", "data check"}
    read |= {f"prepare {name}" for name in ("regions", "rewrites", "neighbours")}
    options = {
        " ".join(names): {name for each in one.params for name in each.opts}
        for names, one in commands(get_command(app))
    }
    assert {verb for verb in read if "--column" not in options[verb]} == set()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("data check texts --ledger bad.jsonl", "--bad-samples"),
        ("pretrain scenes --lr 1e-3", "--set optimizer.lr=..."),
        ("pretrain scenes --output_dir runs/x", "--out PATH"),
        ("export runs/x --out y", "unimo export MODEL OUT"),
        ("caption --model runs/x a.jpg", "unimo caption MODEL IMAGES"),
        ("finetune sst2 --data train.tsv", "--train PATH"),
        ("plan base --gpu 8", "--gpus"),
        ("finetune sst2 --model m", "--init-from MODEL"),
        ("caption m image.png --lr 1", "No such option: --lr"),
        ("pretrain scenes --fp16", "--set precision=..."),
        ("caption m image.png --beams 3", "--num-beams"),
    ],
)
def test_options_of_other_tools_lead_to_ours(words, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unimo", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UsageError.exit_code and hint in capsys.readouterr().err


@pytest.mark.parametrize("words", ["-h", "caption -h", "data check -h"])
def test_help_has_a_short_name(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unimo", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "Usage" in capsys.readouterr().out


def test_case_a_rank_alone_says_why(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unimo", "data", "check", "texts", "/nonexistent"])
    monkeypatch.setenv("RANK", "1")
    for world, head in ((None, "error: path of texts does not exist\n"), ("2", "error on rank 1: path of texts")):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if world:
            monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == DataError.exit_code and error.startswith(head) and "/nonexistent" in error


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), DataError.exit_code, "xxx"),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError.exit_code, "No space left"),
        (RuntimeError("[enforce fail] not enough memory: you tried"), ResourceError.exit_code, "out of memory"),
        (ZeroDivisionError("by zero"), UnimoError.exit_code, "fault of unimo's own"),
    ],
)
def test_errors_that_nobody_named_are_named_at_the_end(fault, code, told):
    import torch  # noqa: F401 - whose errors are known by their words

    error = named(fault.with_traceback(_traceback()))
    assert error.exit_code == code and told in error.one_line() and error.do


def _traceback():
    try:
        raise ValueError
    except ValueError as error:
        return error.__traceback__


def test_sigterm_of_the_launcher_does_not_cut_off_the_reason(monkeypatch):
    """It comes as soon as another process has failed, often while the reason is on its way to the screen."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_as_error():
        with pytest.raises(Terminated) as ended:
            try:
                raise DataError("this happened", do="that")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
        assert terminated(ended.value).what == "this happened"
        print_error(DataError("this", do="that"))
        os.kill(os.getpid(), signal.SIGTERM)  # heard no more
    assert signal.getsignal(signal.SIGTERM) is before


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

    monkeypatch.setattr("unimo.evaluation.compare.compare", fails)
    monkeypatch.setattr(sys, "argv", ["unimo", "compare", "a", "b"])
    monkeypatch.delenv("UNIMO_TRACEBACK", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == code and all(part in error for part in told) and "Traceback" not in error


@pytest.mark.parametrize(
    "given, taken",
    [
        ("--pairs a b --out x c", "--pairs a --pairs b --out x c"),
        ("photos --pairs a b --seed -1", "photos --pairs a --pairs b --seed -1"),
        ("--set a=1 b=2 --resume --pairs a --pairs b c", "--set a=1 --set b=2 --resume --pairs a --pairs b --pairs c"),
        ("--pairs=a b", "--pairs=a b"),
    ],
)
def test_several_values_may_follow_one_flag(given, taken):
    verbs = get_command(app).commands
    assert repeated(verbs["pretrain"].params, given.split()) == taken.split()
    needing = verbs["index"].params  # its model may come last
    assert repeated(needing, ["--out", "x", "--pairs", "a", "b", "MODEL"]) == [
        "--out",
        "x",
        "--pairs",
        "a",
        "--pairs",
        "b",
        "MODEL",
    ]
