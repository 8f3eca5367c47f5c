"""A run's folder has one owner and one history; its log holds each step once; a signal only asks."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass

import pytest

from unimo.config import override, setting
from unimo.errors import DataError, ResourceError, UsageError
from unimo.json_files import load_json
from unimo.train.run_folder import JsonlLog, RunFolder, StopFlag, read_log


@dataclass(frozen=True)
class Log:
    every: int = setting(10, "Steps between log lines.")


@dataclass(frozen=True)
class Recipe:
    rate: float = setting(0.1, "Learning rate.")
    minutes: float | None = setting(None, "Time limit.")
    log: Log = setting(Log(), "Logging.")


DATA = {"pairs": "ab12", "texts": "cd34"}


def in_child(work) -> int:
    """Exit code (or minus the signal) of a forked process that does `work`."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---------------------------------------------------------------------------------------------- folder


def test_a_run_starts_once_and_resumes_with_the_same_settings(tmp_path):
    with RunFolder(tmp_path / "a" / "run") as run:
        assert not run.has_run
        with pytest.raises(UsageError, match="no run"):
            run.resume(Recipe(), DATA)
        run.start(Recipe(), DATA)
        assert run.has_run and load_json(run.settings_path)["rate"] == 0.1
    with RunFolder(tmp_path / "a" / "run") as run:
        with pytest.raises(UsageError, match="already holds a run"):
            run.start(Recipe(), DATA)
        assert run.resume(Recipe(), dict(reversed(DATA.items()))) == []


def test_only_settings_that_may_change_change(tmp_path):
    with RunFolder(tmp_path) as run:
        run.start(Recipe(), DATA)
        harmless = override(Recipe(), ["minutes=5", "log.every=1"])
        with pytest.raises(DataError) as caught:
            run.resume(override(harmless, ["rate=0.2"]), DATA, may_change=["minutes", "log.*"])
        assert caught.value.parts()["got"] == "rate = 0.2"
        assert caught.value.parts()["expected"] == "rate = 0.1"
        with pytest.raises(DataError, match=r"log\.every"):
            run.resume(harmless, DATA, may_change=["minutes"])
        assert load_json(run.settings_path)["minutes"] is None
        assert run.resume(harmless, DATA, may_change=["minutes", "log.*"]) == [
            ("minutes", None, 5.0),
            ("log.every", 10, 1),
        ]
        assert run.resume(harmless, DATA) == []  # they are the run's settings now


@pytest.mark.parametrize("data", [{"pairs": "ab12"}, {**DATA, "pairs": "xx"}, {**DATA, "images": "ef"}])
def test_changed_data_is_refused_by_name(tmp_path, data):
    with RunFolder(tmp_path) as run:
        run.start(Recipe(), DATA)
        with pytest.raises(DataError, match=r"other data.*(pairs|texts|images)"):
            run.resume(Recipe(), data)


def test_a_setting_one_release_lacks_is_listed(tmp_path):
    with RunFolder(tmp_path) as run:
        run.start(Recipe(), DATA)
        old = load_json(run.settings_path)
        del old["minutes"]
        run.settings_path.write_text(json.dumps(old))
        with pytest.raises(DataError, match=r"minutes = \(absent\)"):
            run.resume(Recipe(), DATA)
        run.settings_path.write_text("[]")
        with pytest.raises(DataError, match=r"settings\.json"):
            run.resume(Recipe(), DATA)


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        RunFolder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex")


def test_checkpoints_without_settings_are_not_started_over(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UsageError, match="checkpoints"):
        RunFolder(tmp_path)


def test_a_start_that_was_killed_can_be_started_again(tmp_path):
    with RunFolder(tmp_path) as run:
        run.data_path.write_text("{}")
        (tmp_path / ".settings.json.partial.ab12").write_text("{")
    with RunFolder(tmp_path) as run:
        run.start(Recipe(), DATA)
        assert run.resume(Recipe(), DATA) == []


# ---------------------------------------------------------------------------------------------- lock


def test_the_holder_of_a_folder_is_named(tmp_path):
    with RunFolder(tmp_path), pytest.raises(ResourceError, match=f"process {os.getpid()} on .* since 20"):
        RunFolder(tmp_path)
    RunFolder(tmp_path).close()


def test_a_killed_holder_leaves_the_folder_free(tmp_path):
    def hold_and_die():
        RunFolder(tmp_path).start(Recipe(), DATA)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(hold_and_die) == -signal.SIGKILL
    with RunFolder(tmp_path) as run:
        assert run.has_run


def test_a_forked_worker_does_not_hold_its_dead_parents_folder(tmp_path):
    reader, writer = os.pipe()

    def parent():
        run = RunFolder(tmp_path)
        if os.fork() == 0:
            os.write(writer, os.getpid().to_bytes(8, "little"))
            signal.pause()
        assert run.path
        os._exit(0)

    assert in_child(parent) == 0
    worker = int.from_bytes(os.read(reader, 8), "little")
    try:
        RunFolder(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


# ---------------------------------------------------------------------------------------------- log


def test_records_come_back_in_order_with_every_bit(tmp_path):
    draw = random.Random(0)
    losses = [draw.random() for _ in range(500)]
    with closing(JsonlLog(tmp_path / "log.jsonl")) as log:
        for step, loss in enumerate(losses):
            log.write(step=step, loss=loss, note="▁\n\u2028")
    found = list(read_log(tmp_path / "log.jsonl"))
    assert [record["loss"] for record in found] == losses
    assert [record["step"] for record in found] == list(range(500))
    assert found[0]["note"] == "▁\n\u2028"


def test_losses_that_are_not_finite_stay_valid_json(tmp_path):
    with closing(JsonlLog(tmp_path / "log.jsonl")) as log:
        log.write(step=1, losses={"mlm": math.nan, "itm": [math.inf, -math.inf]})
    assert list(read_log(tmp_path / "log.jsonl")) == [{"step": 1, "losses": {"mlm": "nan", "itm": ["inf", "-inf"]}}]


def test_a_line_is_readable_before_the_log_is_closed(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    log.write(step=1)
    assert list(read_log(tmp_path / "log.jsonl")) == [{"step": 1}]
    log.sync()
    log.close()


def test_a_log_cut_at_any_byte_resumes_with_each_step_once(tmp_path):
    path = tmp_path / "log.jsonl"
    with closing(JsonlLog(path)) as log:
        log.write(event="start")
        for step in range(1, 7):
            log.write(step=step, loss=step / 3)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        steps = [record["step"] for record in read_log(path) if "step" in record]
        resume_from = max([0, *steps]) // 2 * 2  # a checkpoint every second step, saved after its line was written
        with closing(JsonlLog(path)) as log:
            log.truncate_after(resume_from)
            log.write(event="resume")
            for step in range(resume_from + 1, 9):
                log.write(step=step, loss=step / 3)
        found = [json.loads(line) for line in path.read_text().splitlines()]  # every line is whole again
        assert [record["step"] for record in found if "step" in record] == list(range(1, 9)), cut
        assert all(record["loss"] == record["step"] / 3 for record in found if "step" in record)


def test_truncating_keeps_earlier_lines_byte_for_byte(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1,  "x":1.10}\n[3]\nrubbish\n\xff\n{"step":2}\n{"step":3}\n')
    log = JsonlLog(path)
    assert log.truncate_after(2) == 4
    assert log.truncate_after(2) == 0
    log.close()
    assert path.read_bytes() == b'{"step": 1,  "x":1.10}\n{"step":2}\n'


def test_a_log_that_is_not_there_or_cannot_be_written_is_located(tmp_path):
    with pytest.raises(DataError, match="nolog"):
        list(read_log(tmp_path / "nolog"))
    with pytest.raises(ResourceError, match="log"):
        JsonlLog(tmp_path / "absent" / "log.jsonl")


# ---------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_first_signal_asks_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.received == number
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_forked_workers_do_not_swallow_signals():
    with StopFlag() as stop:
        assert in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM
        assert not stop


def test_runs_need_no_torch():
    code = "import sys, unimo.train.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
