"""Kill a saver anywhere: what it had finished is there afterwards, whole.

Two harnesses: the process dies at every event of one save (`dying.py`: every call that changes the disk, half a write
done); and at events drawn by seed, again and again in one folder. Each must also lose data when the save is a naive
one: a harness that cannot fail proves nothing. `test_power_cut.py` is the third. Longer ones: `campaign.py`.
"""

import errno
import shutil
from collections import Counter

import pytest
from dying import KINDS, counted
from saving import RecordingDisk, atomic_load, atomic_save, kill_at_every_event, kill_savers

from unimo.checkpoint import Disk
from unimo.errors import UnimoError


def test_every_call_to_the_disk_is_an_event(tmp_path):
    """Otherwise 'every event' would be a claim about the harness only: the recorder stands where the calls are made."""
    for step in (1, 2):
        atomic_save(tmp_path / "a", step, 100)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    atomic_save(tmp_path / "a", 3, 100, disk := RecordingDisk(tmp_path / "a"))
    calls = Counter(kind for kind, *_ in disk.log)
    events = counted(lambda _: atomic_save(tmp_path / "b", 3, 100))
    assert events["write"] == calls["write"] and events["fsync"] == calls["sync"] + calls["sync_folder"]
    assert events["os.mkdir"] == calls["make"] and events["open"] == calls["create"]
    assert events["os.rename"] == calls["rename"] and events["os.remove"] + events["os.rmdir"] == calls["remove"]


def test_sixty_kills_at_drawn_events_lose_nothing(tmp_path):
    result = kill_savers("atomic", tmp_path, kills=60, seed=0)
    assert result["kills"] == 60 and result["lost"] == 0, result
    assert result["cut_within_a_save"] >= 30, f"the kills hardly met a save: {result}"
    assert result["last_step"] >= 40, f"the victims hardly got to save: {result}"
    assert result["places"] == KINDS - {"os.truncate", "os.link", "os.symlink"}, result


def test_the_drawn_kills_see_a_naive_overwrite_lose_data(tmp_path):
    assert kill_savers("naive", tmp_path, kills=60, seed=0)["lost"] >= 1


def test_a_kill_at_every_event_loses_nothing(tmp_path):
    result = kill_at_every_event("atomic", tmp_path)
    assert result["points"] >= 20, result
    assert result["lost"] == 0 and result["dirty"] == 0, result


def test_the_kills_at_every_event_see_a_naive_overwrite_lose_data(tmp_path):
    assert kill_at_every_event("naive", tmp_path)["lost"] >= 1


# ---------------------------------------------------------------------------------------------- going on


def test_an_interrupt_in_the_middle_of_a_save_leaves_no_litter(tmp_path):
    class Interrupted(Disk):
        def sync(self, file):
            raise KeyboardInterrupt

    atomic_save(tmp_path, 1, 10)
    with pytest.raises(KeyboardInterrupt):
        atomic_save(tmp_path, 2, 10, Interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_failing_saves_can_be_retried_until_there_is_room(tmp_path):
    class Full(Disk):
        def sync(self, file):
            raise OSError(errno.ENOSPC, "No space left on device")

    atomic_save(tmp_path, 1, 10)
    for _ in range(3):
        with pytest.raises(UnimoError, match="disk full"):
            atomic_save(tmp_path, 2, 10, Full())
    atomic_save(tmp_path, 2, 10)
    assert atomic_load(tmp_path) == 2
