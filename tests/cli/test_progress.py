"""The bar of rows and bytes on a terminal of 80 columns: name, how much, rate and time left."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import time

import pytest

from unimo.cli.progress import progress_bar


@pytest.mark.parametrize(
    ("unit", "seen"), [("bytes", r"50\.0/50\.0 MB .*MB/s 0:00:0"), ("rows", r"10/10 \d+\.\d rows/s 0:00:0")]
)
def test_a_terminal_sees_rate_and_time_left(monkeypatch, unit, seen):
    leader, follower = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    total = 50_000_000 if unit == "bytes" else 10
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar("images", unit) as update:
            for part in range(1, 11):
                update(part * total // 10, total)
                time.sleep(0.02)
        with progress_bar("nothing to tell", unit):
            pass
    data = b""
    with contextlib.suppress(OSError):  # how a terminal ends whose other side is closed
        while some := os.read(leader, 1 << 20):  # a few thousand bytes each time
            data += some
    os.close(leader)
    drawn = data.decode()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n").split("\n")
    assert any(re.search(rf"^images .*{seen}", line) and len(line) <= 80 for line in lines), lines[-5:]
    assert "nothing to tell" not in drawn


def test_elsewhere_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("unimo.cli.progress.time.monotonic", lambda: next(clock))
    with progress_bar("images", "rows") as update:
        for done in (10, 20, 30, 40):
            update(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "images: 20 rows of 100, 320 s left, 0.2 rows/s",
        "images: 40 rows of 100, 160 s left, 0.4 rows/s",
    ]
