"""The order of the data is a pure function of (seed, place): complete, disjoint, well packed, picklable."""

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from unimo.data import schedule
from unimo.data.schedule import Bins, Shuffled, passages


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_every_epoch_visits_each_sample_exactly_once_in_a_fresh_order(n):
    run = Shuffled(n, seed=3, purpose="pairs")
    orders = []
    for epoch in range(4):
        visits = [run[place] for place in range(epoch * n, (epoch + 1) * n)]
        assert {e for e, _ in visits} == {epoch}
        assert sorted(sample for _, sample in visits) == list(range(n))
        orders.append(tuple(sample for _, sample in visits))
    if n == 100:
        assert len(set(orders)) == 4


def test_seed_and_purpose_give_other_orders_and_equal_names_the_same():
    def order(seed, purpose):
        run = Shuffled(50, seed, purpose)
        return [run[place] for place in range(50)]

    assert order(0, "pairs") == order(0, "pairs")
    assert len({tuple(order(s, p)) for s, p in ((0, "pairs"), (1, "pairs"), (0, "images"))}) == 3


def test_a_place_answers_the_same_whatever_was_asked_before_and_in_another_process():
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    for make in (lambda: Shuffled(37, 1, "x"), lambda: Bins(lengths, 64, 1, "x")):
        ahead, behind, places = make(), make(), list(range(300))
        forwards = [ahead[place] for place in places]
        backwards = [behind[place] for place in reversed(places)][::-1]
        travelled = pickle.loads(pickle.dumps(ahead))
        assert forwards == backwards == [travelled[place] for place in places]


@pytest.mark.parametrize("seed", range(5))
def test_bins_hold_every_sample_once_per_epoch_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    budget = int(rng.integers(32, 256))
    lengths = rng.integers(1, budget + 1, int(rng.integers(1, 200)))
    bins = Bins(lengths, budget, seed, "texts")
    seen: Counter[tuple[int, int]] = Counter()
    place = 0
    while True:
        epoch, chosen = bins[place]
        if epoch == 3:
            break
        assert chosen and lengths[chosen].sum() <= budget
        seen.update((epoch, sample) for sample in chosen)
        place += 1
    assert seen == Counter({(epoch, sample): 1 for epoch in range(3) for sample in range(len(lengths))})


def test_long_documents_fill_bins_to_nine_tenths():
    documents = np.random.default_rng(0).integers(500, 20_000, 300)
    pieces = passages(documents, 126)
    bins = Bins(pieces[:, 2] - pieces[:, 1] + 2, 2048, 0, "texts")
    filled = [bins.lengths[bins[place][1]].sum() / 2048 for place in range(500)]
    assert np.mean(filled) >= 0.9


def test_many_bins_are_packed_once_and_visited_in_a_fresh_order(monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    packed_anew = Bins(lengths, 64, 0, "texts")
    monkeypatch.setattr(schedule, "PACKED_ONCE", 100)
    bins = Bins(lengths, 64, 0, "texts")
    assert bins.packed_once and not packed_anew.packed_once
    n = len(bins.edges(0)) - 1
    epochs = [[tuple(bins[place][1]) for place in range(epoch * n, (epoch + 1) * n)] for epoch in range(3)]
    assert epochs[0] == [tuple(packed_anew[place][1]) for place in range(n)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) and len({tuple(one) for one in epochs}) == 3
    assert [bins[place][0] for place in (0, n - 1, n, 3 * n)] == [0, 0, 1, 3]


def test_a_far_place_of_many_bins_packs_one_epoch(monkeypatch):
    """Resuming late in a run: two permutations, whatever the epoch; no sample is read."""
    drawn = []
    epoch_of = Shuffled._epoch
    monkeypatch.setattr(Shuffled, "_epoch", lambda self, epoch: drawn.append(epoch) or epoch_of(self, epoch))
    bins = Bins(np.full(4000, 30), 64, 0, "texts")
    assert bins[2_000 * 5_000 + 7][0] == 5_000 and drawn == [0, 5_000]


def test_few_bins_are_packed_anew_in_every_epoch():
    bins = Bins(np.full(2000, 30), 64, 0, "texts")
    assert bins[50_000][0] == 50
    assert not {tuple(bins[place][1]) for place in range(1000)} & {tuple(bins[place][1]) for place in range(1000, 2000)}


@pytest.mark.parametrize("max_length", [1, 2, 7, 126])
def test_passages_cut_every_document_without_gap_or_overlap(max_length):
    counts = np.array([1, 2, 3, max_length, max_length + 1, 5 * max_length, 5 * max_length + 1, 1000])
    pieces = passages(counts, max_length)
    assert (pieces[:, 2] - pieces[:, 1] <= max_length).all() and (pieces[:, 2] > pieces[:, 1]).all()
    for document, count in enumerate(counts):
        own = pieces[pieces[:, 0] == document]
        assert own[0, 1] == 0 and own[-1, 2] == count
        assert all(left[2] == right[1] for left, right in pairwise(own))
        assert own[0, 2] - own[0, 1] - (own[-1, 2] - own[-1, 1]) <= len(own)  # equal parts, no stub of one token
