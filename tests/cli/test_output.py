"""What the command line writes to: an answer is not lost for want of a letter or a reader, and lines stay apart."""

from __future__ import annotations

import errno
import io
import os
import pty
import signal
import subprocess
import sys

import pytest

from unimo.cli.app import say
from unimo.cli.main import main
from unimo.cli.output import Output, tolerant
from unimo.errors import ResourceError, Restart

PROGRAM = """
import sys
from pathlib import Path
from unimo.cli import app, main
from unimo.cli.app import say

@app.command()
def answer(out: str) -> None:
    for i in range(3):
        say(f"a café for U+1F408: \\U0001f408 {i}")
    Path(out).write_text("whole")

sys.argv = ["unimo", "answer", *sys.argv[1:]]
main()
"""
# A bar that stands while others speak, until Ctrl-C comes or the work is done.
LIVE = """
    import input_of_a_run as i
    meter = i.Meter(1e9, say)
    meter.every = 0
    try:
        for step in range(3):
            meter.show({"step": step, "loss": 2.5, "mlm.pairs": 1.5}, i.batch, 1e9, (step + 1) / 4, 10.0 * (step + 1))
            say(f"said {step}")
            print(f"careful {step}", file=sys.stderr)
        {end}
    finally:
        meter.close()
"""
INPUT = """
from time import sleep
from types import SimpleNamespace
from unimo.train.logging import Meter
batch = SimpleNamespace(keys={"pairs": ["a"] * 8}, texts=SimpleNamespace(ids=range(100)))
"""


@pytest.fixture
def program(tmp_path):
    """Writes a program that says three lines and then writes a file, or what stands in place of its last line."""
    (tmp_path / "input_of_a_run.py").write_text(INPUT)

    def written(body: str = '    Path(out).write_text("whole")'):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.replace('    Path(out).write_text("whole")', body))
        return path

    return written


def environment(tmp_path, **options):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)]), "COLUMNS": "80", **options}


def run(tmp_path, program, redirection="", **options):
    """The program behind a shell's redirection, and the file that it writes."""
    command = f'"{sys.executable}" "{program()}" "{tmp_path / "out"}" {redirection}'
    env = environment(tmp_path, **options)
    return subprocess.run(["bash", "-c", command], capture_output=True, env=env, check=False), tmp_path / "out"


def in_terminal(tmp_path, program, until: bytes = b"", keys: bytes = b"") -> tuple[int, list[str]]:
    """Exit code and lines that a terminal of 80 columns shows; keys: pressed once `until` is seen."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests may run where it is ignored
        os.environ |= environment(tmp_path, TERM="xterm")
        os.execv(sys.executable, [sys.executable, str(program), str(tmp_path / "out")])
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1000)
        except OSError:  # how a pseudo-terminal says that all is read
            break
        shown += part
        if not part:
            break
        if until and until in shown:
            os.write(terminal, keys)
            until = b""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode().replace("\r", "\n").split("\n")


def test_case_an_ascii_terminal_gets_the_answer(tmp_path, program):
    done, out = run(tmp_path, program, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and out.read_text() == "whole"
    assert done.stdout.decode("ascii").splitlines()[0] == r"a caf\xe9 for U+1F408: \U0001f408 0"


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">&-", 0, b"standard output is closed"),
        ("> /dev/full", ResourceError.exit_code, b"No space left on device"),
        (">&- 2>&-", 0, b""),
        ("| true", 0, b"nothing more can be shown"),
    ],
)
def test_case_without_a_reader_files_are_written_and_the_reason_is_said(redirection, code, told, tmp_path, program):
    if redirection == "| true":  # a pipe whose other end is closed before the first word
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, program(), tmp_path / "out"]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment(tmp_path), check=False)
        os.close(writing)
        out, code = tmp_path / "out", 1
        assert done.stderr.count(told) == 1 and b"Broken pipe" in done.stderr
    else:
        done, out = run(tmp_path, program, redirection)
    assert done.returncode == code and out.read_text() == "whole" and told in done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    if redirection == ">&-":
        assert done.stderr.count(b"caf") == 3


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), (["nonsense"], 2), (["caption"], 2)])
def test_what_the_parser_writes_itself_comes_out(words, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unimo", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == code and (shown.out if code == 0 else shown.err) and "fault" not in shown.err


def test_case_messages_begin_on_a_line_of_their_own_and_the_bar_tells_time_and_rate(tmp_path, program):
    code, lines = in_terminal(tmp_path, program(LIVE.replace("{end}", "pass")))
    assert code == 0
    for step in range(3):
        assert any(line.endswith(f"said {step}") for line in lines), lines
        assert any(line.endswith(f"careful {step}") for line in lines), lines
    bars = [line for line in lines if "min left" in line]
    assert bars and all("pairs/s" in line and "loss 2.500" in line and "said" not in line for line in bars)


def test_without_a_terminal_progress_is_plain_lines(tmp_path, program):
    path = program(LIVE.replace("{end}", "pass"))
    done = subprocess.run([sys.executable, path, "x"], capture_output=True, env=environment(tmp_path), check=True)
    lines = done.stdout.decode().splitlines()
    assert sum("min left" in line[:80] and "pairs/s" in line[:80] for line in lines) == 3 and b"\x1b" not in done.stdout


def test_case_ctrl_c_in_a_terminal_is_no_error_and_has_its_own_line(tmp_path, program):
    # Not one long read: a signal that comes just before the system call would wait for its end.
    waits = "while True: i.sleep(0.01)"
    code, lines = in_terminal(tmp_path, program(LIVE.replace("{end}", waits)), b"careful 2", b"\x03")
    shown = [line for line in lines if line.strip()]
    assert code == 130 and shown[-1] == "stopped by Ctrl-C" and not any("error" in line for line in shown)


def test_ctrl_c_elsewhere_ends_with_its_code(monkeypatch, capsys):
    monkeypatch.setattr("unimo.evaluation.compare.compare", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["unimo", "compare", "a", "b"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped by Ctrl-C\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_saved_itself_says_how_to_go_on(monkeypatch, capsys):
    def stopped(*_, **__):
        raise Restart("stopped after step 7, saved", where="runs/my run")

    monkeypatch.setattr("unimo.recipes.find", stopped)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for words in (["--out", "my run"], ["--out", "my run", "--resume"]):
        monkeypatch.setattr(sys, "argv", ["unimo", "pretrain", "scenes", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = "stopped after step 7, saved; continue with: unimo pretrain scenes --out 'my run' --resume\n"
        assert ended.value.code == 75 and capsys.readouterr().err.startswith(said)


def test_a_stream_that_fails_fails_once():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    told = []
    output = Output(Full(), on_failure=told.append)
    for _ in range(3):
        print("lost", file=output, flush=True)
    assert len(told) == 1 and output.lost.errno == errno.ENOSPC and not output.isatty()


def test_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with tolerant():
        assert sys.stdout is not before[0]
        say("hello")
    assert (sys.stdout, sys.stderr) == before
