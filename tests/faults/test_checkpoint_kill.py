"""Kill a saver anywhere: what it had finished is there afterwards, whole.

Two harnesses: the process dies at every event of one save (`dying.py`: every call that changes the disk, half a write
done); and at events drawn by seed, again and again in one folder. Each must also lose data when the save is a naive
one: a harness that cannot fail proves nothing. `test_power_cut.py` is the third. Longer ones: `campaign.py`.
"""

import pytest
from dying import KINDS, disk_events
from saving import atomic_save, kill_at_every_event, kill_savers


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


def failing(fault: BaseException):
    """Raises at every flush."""

    def tell(kind, *_):
        if kind == "fsync":
            raise fault

    return disk_events(tell)


def test_an_interrupt_in_the_middle_of_a_save_leaves_no_litter(tmp_path):
    atomic_save(tmp_path, 1, 10)
    with failing(KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        atomic_save(tmp_path, 2, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
