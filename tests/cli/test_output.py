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
def answer(out: str, fault: str = "none") -> None:
    for i in range(3):
        say(f"a café for U+1F408: \\U0001f408 {i}")
    Path(out).write_text("whole")

sys.argv = ["unimo", "answer", *sys.argv[1:]]
main()
"""


def run(tmp_path, redirection="", **options):
    """A verb that says three lines and then writes a file, behind a shell's redirection."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = f'"{sys.executable}" "{program}" "{tmp_path / "out"}" {redirection}'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=env, check=False)
    return done, tmp_path / "out"


def test_case_an_ascii_terminal_gets_the_answer(tmp_path):
    done, out = run(tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and out.read_text() == "whole"
    assert done.stdout.decode("ascii").splitlines()[0] == r"a caf\xe9 for U+1F408: \U0001f408 0"


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        (">&-", 0, b"standard output is closed"),
        ("> /dev/full", ResourceError.exit_code, b"No space left on device"),
        (">&- 2>&-", 0, b""),
    ],
)
def test_case_without_a_reader_files_are_written_and_the_reason_is_said(redirection, code, told, tmp_path):
    done, out = run(tmp_path, redirection)
    assert done.returncode == code and out.read_text() == "whole"
    assert told in done.stderr and b"Traceback" not in done.stderr
    if redirection == ">&-":
        assert done.stderr.count(b"caf") == 3


def test_a_reader_that_has_gone(tmp_path):
    """A pipe whose other end is closed before the first word."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, program, tmp_path / "out"], stdout=writing, stderr=subprocess.PIPE, env=env, check=False
    )
    os.close(writing)
    assert done.returncode == 1 and (tmp_path / "out").read_text() == "whole"
    assert done.stderr.count(b"nothing more can be shown") == 1 and b"Broken pipe" in done.stderr
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), (["nonsense"], 2), (["caption"], 2)])
def test_what_the_parser_writes_itself_comes_out(words, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unimo", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == code and (shown.out if code == 0 else shown.err) and "fault" not in shown.err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_case_messages_begin_on_a_line_of_their_own():
    screen = Terminal()  # both streams show on it
    output = Output(screen)
    errors = Output(screen, other=output)
    print("first", file=output)
    print("\r\x1b[Kstep 1", end="", file=output)
    print("\r\x1b[Kstep 2", end="", file=output)
    print("careful", file=errors)
    print("\r\x1b[Kstep 3", end="", file=output)
    print("said", file=output)
    print("\r\x1b[Kstep 4", end="", file=output)
    print(file=output)
    print("error: so", file=errors)
    live = [line.split("\r\x1b[K")[-1] for line in screen.getvalue().split("\n")]
    assert live == ["first", "step 2", "careful", "step 3", "said", "step 4", "error: so", ""]


def test_a_stream_that_fails_fails_once():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    told = []
    output = Output(Full(), told=told.append)
    for _ in range(3):
        print("lost", file=output, flush=True)
    assert len(told) == 1 and output.lost.errno == errno.ENOSPC and not output.isatty()


def test_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with tolerant():
        assert sys.stdout is not before[0]
        say("hello")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("live", [True, False])
def test_case_ctrl_c_is_no_error_and_has_its_own_line(live, monkeypatch, capsys):
    def interrupted(*_, **__):
        print("\rstep 7" if live else "step 7", end="" if live else "\n", flush=True)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("unimo.evaluation.compare.compare", interrupted)
    monkeypatch.setattr(sys, "argv", ["unimo", "compare", "a", "b"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 130 and shown.err == "stopped by Ctrl-C\n"
    assert shown.out.endswith("step 7\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_saved_itself_is_not_called_an_error(monkeypatch, capsys):
    def asked(*_, **__):
        raise Restart("asked to stop; the run is saved", where="runs/a", do="start it again with --resume")

    monkeypatch.setattr("unimo.evaluation.compare.compare", asked)
    monkeypatch.setattr(sys, "argv", ["unimo", "compare", "a", "b"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert capsys.readouterr().err.startswith("stopped: asked to stop; the run is saved\n")


def test_ctrl_c_in_a_terminal(tmp_path):
    """With a real terminal, whose driver sends the signal."""
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.replace('Path(out).write_text("whole")', 'print("\\rlive", end="", flush=True); input()')
    )
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execv(sys.executable, [sys.executable, str(program), str(tmp_path / "out")])
    shown = b""
    while b"live" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while True:
        try:
            part = os.read(terminal, 1000)
        except OSError:  # how a pseudo-terminal says that all is read
            break
        if not part:
            break
        shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert shown.replace(b"\r", b"").splitlines()[-1] == b"stopped by Ctrl-C" and b"error" not in shown
