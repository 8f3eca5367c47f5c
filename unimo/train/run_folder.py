"""The folder of a run: who holds it, with which settings it was started, its log, and how it is stopped.

    runs/mine/
      .lock            held by the one process that writes here
      settings.json    the resolved settings; can be given back as input
      data.json        fingerprint of each data source
      log.jsonl        one line per step
      checkpoints/     see `unimo.checkpoint`

With several ranks only rank 0 opens the folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from unimo.config import diff, to_dict
from unimo.disk import disk_error, write_atomic
from unimo.errors import DataError, ResourceError, UsageError
from unimo.json_files import load_json, write_json
from unimo.paths import user_path

# What a start leaves behind when it is killed, or refused for its bad samples.
OURS = (".lock", ".data.json.", ".settings.json.", "data.json", "bad_samples.jsonl")


class RunFolder:
    """Opens or creates a run's folder and holds it until `close` or the end of the `with` block.

    Raises ResourceError when another process holds it (naming it) and UsageError when the folder holds files
    but no run. Then either `start` a new run or `resume` the one inside.
    """

    def __init__(self, path: str | Path):
        self.path = user_path(path, "output folder")
        self.settings_path = self.path / "settings.json"
        self.data_path = self.path / "data.json"
        self.log_path = self.path / "log.jsonl"
        self._lock_path = self.path / ".lock"
        if not self._lock_path.exists():  # leave no trace in somebody else's folder
            self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._lock_path)  # forked loader workers let it go; its file stays
            self._lock.acquire(timeout=0)
            self._lock_path.write_text(json.dumps(_this_process()))
        except Timeout as fault:
            got, do = f"held by {self._holder()}", "wait for it or stop it, or choose another folder"
            expected = "one process per folder"
            raise ResourceError(
                "the output folder is in use", where=self.path, got=got, expected=expected, do=do
            ) from fault
        except OSError as fault:
            raise disk_error(fault, self.path) from fault
        try:
            self._refuse_foreign()
        except BaseException:
            self.close()
            raise

    @property
    def has_run(self) -> bool:
        """True once `start` has been called here, by this process or an earlier one."""
        return self.settings_path.is_file()

    def start(self, settings: Any, data: Mapping[str, str]) -> None:
        """Begins a run. settings: a settings dataclass; data: fingerprint of each source."""
        if self.has_run:
            do = "resume it, or choose another folder"
            raise UsageError("the output folder already holds a run", where=self.path, expected="a new folder", do=do)
        write_json(self.data_path, dict(data))
        write_json(self.settings_path, to_dict(settings))  # last: it marks a run

    def resume(
        self, settings: Any, data: Mapping[str, str], *, may_change: Iterable[str] = ()
    ) -> list[tuple[str, Any, Any]]:
        """Goes on with the run inside and returns the allowed changes (key, old, new), now saved as its settings.

        may_change: patterns of dotted keys that do not alter what is learnt, such as "minutes" or "log.*".
        Raises DataError for any other difference, in settings or data, and UsageError when there is no run.
        """
        if not self.has_run:
            raise UsageError("no run to resume", where=self.path, do="start one, or check the folder's name")
        patterns = list(may_change)
        changed = diff(_load_object(self.settings_path), settings)
        forbidden = [row for row in changed if not any(fnmatchcase(row[0], pattern) for pattern in patterns)]
        _refuse_changes("settings", self.settings_path, forbidden)
        _refuse_changes("data", self.data_path, diff(_load_object(self.data_path), dict(data)))
        if changed:
            write_json(self.settings_path, to_dict(settings))
        return changed

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(
                "the output folder is a file", where=self.path, expected="a folder, or a name not yet used"
            )
        if not self.path.is_dir() or self.has_run:
            return
        foreign = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(OURS))
        if foreign:
            raise UsageError(
                "the output folder holds files but no run",
                where=self.path,
                got=", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else ""),
                expected="an empty or new folder, or one with a run (settings.json)",
                do="choose another folder, or move these files away",
            )

    def _holder(self) -> str:
        for _ in range(25):  # it may have taken the lock a moment ago and not yet written its name
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                holder = json.loads(self._lock_path.read_text())
                return f"process {holder['pid']} on {holder['host']} since {holder['start']}"
            time.sleep(0.02)
        return "an unknown process"


def _this_process() -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "start": now}


def _load_object(path: Path) -> dict[str, Any]:
    value = load_json(path)
    if not isinstance(value, dict):
        raise DataError("malformed file of a run", where=path, got=type(value).__name__, expected="a dictionary")
    return value


def _refuse_changes(kind: str, where: Path, rows: list[tuple[str, Any, Any]]) -> None:
    if rows:
        raise DataError(
            f"the run was started with other {kind}",
            where=where,
            got=", ".join(f"{key} = {new}" for key, _, new in rows),
            expected=", ".join(f"{key} = {old}" for key, old, _ in rows),
            do=f"restore the {kind} to resume exactly, or start a new folder",
        )


# ---- log


class JsonlLog:
    """An append-only log, one JSON object per line; a line reaches the system in one call, before `write` returns."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as fault:
            raise disk_error(fault, self.path) from fault

    def write(self, **record: Any) -> None:
        """Appends one record. Losses may be NaN or infinite, JSON may not: they become "nan", "inf", "-inf"."""
        line = json.dumps(_spelled(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file.fileno(), line) :]
        except OSError as fault:
            raise disk_error(fault, self.path, needed=len(line)) from fault

    def sync(self) -> None:
        """Call before saving a checkpoint, so that a power cut loses no line of a step that the checkpoint holds."""
        os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> int:
        """On resuming from `step`: drops records of later steps and broken lines; returns how many went.

        Records without a step stay. What remains holds each step once, as the run will now repeat the later ones.
        """
        data = self.path.read_bytes()
        lines = data.splitlines(keepends=True)
        kept = [line for line in lines if (record := _record(line)) is not None and _step(record) <= step]
        text = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in kept)  # a kill cuts the last line
        if text != data:
            self.close()
            write_atomic(self.path, text)
            self._open()
        return len(lines) - len(kept)

    def close(self) -> None:
        self._file.close()


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; lines cut by a kill are passed over. DataError if there is no file."""
    path = Path(path)
    if not path.is_file():
        raise DataError("no such log", where=path, expected="a file of JSON lines")
    with path.open("rb") as file:
        yield from (record for line in file if (record := _record(line)) is not None)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _step(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int) else -math.inf


def _spelled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, (list, tuple)) else value


# ---- signals


class StopFlag:
    """True once a signal to stop came; the loop looks at it between steps, finishes, saves and leaves.

    The handler does nothing else, so a signal can never meet a half-done step or save. From the first signal on the
    system's own handling is back: a second one ends the process at once. Main thread only. In a forked process that
    still has the handlers a signal does what it would do without them.
    """

    def __init__(self, signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)):
        self.signals = tuple(signals)
        self.received: int | None = None
        self._owner = os.getpid()
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> StopFlag:
        self._before = {number: signal.signal(number, self._handle) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        for each in self.signals:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() == self._owner:
            self.received = number
        else:
            os.kill(os.getpid(), number)
