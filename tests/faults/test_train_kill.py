"""Kill a training run anywhere, start it again: every loss and every weight as if nothing had happened.

Where the kills fall is drawn by seed from the run's events (`dying.py`), so the machine's speed changes nothing.
Longer ones, and kills from outside at random instants: `campaign.py`.
"""

import signal

import pytest
import resuming
from dying import KINDS
from stage import stage
from tiny_run import bits_of, log_of, quiet, tiny, write_tiny_world

from unimo import checkpoint
from unimo.train import loop as T


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    with stage(resuming.__file__, tmp_path_factory.mktemp("runs")) as play:
        yield play


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_drawn_events_and_resumed_a_run_is_bit_identical(played, seed):
    told = played("kill", 5, seed)
    assert told["kills"] == 5 and told["compared"] >= 1 and told["different"] == 0, told
    assert len(told["resumed_from"]) >= 2 and len(told["places"]) >= 3, told  # many different places, not one
    assert set(told["places"]) <= KINDS | {"step"}, told


def test_a_second_signal_while_saving_ends_at_once_and_loses_nothing(played):
    assert played("second_signal") == {"ended_by": signal.SIGTERM, "left": "step-00000001", "steps": [0, 1, 2]}


def test_the_comparison_can_fail(tmp_path):
    """A run of another seed must count as different, or the kills prove nothing."""
    world = write_tiny_world(tmp_path / "world")
    for seed in (0, 1):
        T.train(tiny(world, "steps=2", f"seed={seed}"), tmp_path / str(seed), say=quiet)
    ends = [bits_of(checkpoint.latest(tmp_path / str(seed) / "checkpoints")) for seed in (0, 1)]
    assert ends[0] != ends[1] and log_of(tmp_path / "0") != log_of(tmp_path / "1")
