"""What every way of hiding a part of a text must keep to, whatever the text and the draws."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from unimo.data.masking import SLICES, _length_steps, cut_fragments, hide, mask_spans
from unimo.errors import UsageError

VOCABULARY = {"vocab_size": 50265, "mask_id": 50264}


def text_row(n):
    """[CLS] 100 101 102 ... [SEP]: every token of the text is another one, so it can be followed."""
    return np.array([0, *range(100, 98 + n), 2])


def one_word_per_token(n):
    return np.array([-1, *[0] * (n - 2), -1], dtype=np.int8)


# word_start of whole rows: words of 1 to 5 pieces between special tokens, at the ends and possibly within
word = st.integers(0, 4).map(lambda more: [0] + [1] * more)
rows = st.lists(st.one_of(word, word, word, st.just([-1])), max_size=40).map(
    lambda parts: [-1, *itertools.chain(*parts), -1]
)


def words_of(word_start):
    """The intervals of the words, found piece by piece."""
    words = []
    for i, kind in enumerate(word_start):
        if kind == 0:
            words.append([i])
        elif kind == 1:
            words[-1].append(i)
    return words


# --- span masking


@settings(max_examples=400, deadline=None)
@given(word_start=rows, seed=st.integers(0, 2**32), ratio=st.sampled_from([0.15, 0.15, 0.4]))
def test_masking_keeps_to_budget_words_and_rest(word_start, seed, ratio):
    n = len(word_start)
    ids = np.where(np.array(word_start) == -1, 0, 100 + np.arange(n))
    before = ids.copy()
    corrupted, hidden = mask_spans(ids, word_start, np.random.default_rng(seed), ratio=ratio, **VOCABULARY)

    assert corrupted.dtype == hidden.dtype == np.int64
    assert np.array_equal(ids, before)
    assert np.all(np.diff(hidden) > 0)
    assert len(hidden) == min(math.ceil(ratio * n), n - word_start.count(-1))
    assert -1 not in np.array(word_start)[hidden]

    untouched = np.setdiff1d(np.arange(n), hidden)
    assert np.array_equal(corrupted[untouched], ids[untouched])
    assert np.all(corrupted[hidden] >= 4) and np.all(corrupted[hidden] < 50265)

    # The budget may cut one word, and then the beginning of that word is hidden.
    shares = [[i in hidden for i in word] for word in words_of(word_start)]
    broken = [share for share in shares if any(share) and not all(share)]
    assert len(broken) <= 1
    assert all(share == sorted(share, reverse=True) for share in broken)


def test_eighty_ten_ten():
    rng = np.random.default_rng(3)
    fates = Counter()
    swapped_to = []
    for _ in range(400):
        row = text_row(500)
        corrupted, hidden = mask_spans(row, one_word_per_token(500), rng, **VOCABULARY)
        masked, same = corrupted[hidden] == 50264, corrupted[hidden] == row[hidden]
        fates += Counter(masked=int(masked.sum()), same=int(same.sum()), swapped=int((~masked & ~same).sum()))
        swapped_to += corrupted[hidden][~masked & ~same].tolist()
    total = fates.total()
    assert total == 400 * 75
    found = [fates["masked"], fates["swapped"], fates["same"]]
    assert chisquare(found, [0.8 * total, 0.1 * total, 0.1 * total]).pvalue > 1e-3
    # replacements are spread evenly over 4..vocabulary
    counts, _ = np.histogram(swapped_to, bins=10, range=(4, 50265))
    assert chisquare(counts).pvalue > 1e-3
    assert min(swapped_to) < 100 and max(swapped_to) > 50000


def test_fate_is_drawn_for_each_token_not_for_each_span():
    row, starts = text_row(502), np.array([-1, 0, *[1] * 499, -1])  # one word, hidden from its first piece on
    corrupted, hidden = mask_spans(row, starts, np.random.default_rng(0), **VOCABULARY)
    assert hidden.tolist() == list(range(1, 77))
    assert 40 < (corrupted[hidden] == 50264).sum() < 76


def test_mean_words_per_span():
    chances = np.diff([0.0, *_length_steps(0.2, 10)])
    assert len(chances) == 11
    assert np.allclose(chances[1:] / chances[:-1], 0.8)  # geometric
    assert np.arange(11) @ chances == pytest.approx(2.97, abs=0.005)


def test_spans_have_the_stated_lengths():
    """Spans in a long row seldom touch, so the runs of hidden tokens show how many spans spent the budget."""
    rng = np.random.default_rng(5)
    n, budget, trials = 5000, 10, 1500

    def drawn_length():  # truncated geometric by refusal; 0 words count as 1
        while (length := rng.geometric(0.2) - 1) > 10:
            pass
        return max(1, length)

    def spans_needed():
        spent = spans = 0
        while spent < budget:
            spent, spans = spent + drawn_length(), spans + 1
        return spans

    def runs_found():
        _, hidden = mask_spans(text_row(n), one_word_per_token(n), rng, ratio=budget / n, **VOCABULARY)
        return 1 + int((np.diff(hidden) > 1).sum())

    expected = np.array([spans_needed() for _ in range(trials)])
    found = np.array([runs_found() for _ in range(trials)])
    error = math.hypot(expected.std(), found.std()) / math.sqrt(trials)
    assert abs(expected.mean() - found.mean()) < 4 * error


def test_every_word_is_equally_likely_to_be_hidden():
    rng = np.random.default_rng(6)
    counts = np.zeros(20)
    for _ in range(4000):
        _, hidden = mask_spans(text_row(20), one_word_per_token(20), rng, ratio=0.05, max_length=0, **VOCABULARY)
        counts[hidden] += 1
    assert counts[0] == counts[19] == 0
    assert chisquare(counts[1:-1]).pvalue > 1e-3


def test_spans_stop_at_special_tokens():
    starts = np.array([-1, 0, 0, -1, 0, 0, -1] * 30)
    _, hidden = mask_spans(np.arange(210), starts, np.random.default_rng(0), ratio=0.5, **VOCABULARY)
    assert len(hidden) == 105 and np.all(starts[hidden] == 0)


@pytest.mark.parametrize(
    ("word_start", "ratio", "expected"),
    [
        ([], 0.15, []),
        ([-1] * 50, 0.15, []),
        ([-1, 0, -1], 0.15, [1]),  # one word, however short
        ([-1, *[0] * 38, -1], 1.0, list(range(1, 39))),
    ],
)
def test_nothing_little_and_everything_can_be_hidden(word_start, ratio, expected):
    ids = [0 if kind < 0 else 9 for kind in word_start]
    corrupted, hidden = mask_spans(ids, word_start, np.random.default_rng(0), ratio=ratio, **VOCABULARY)
    assert hidden.tolist() == expected and corrupted.dtype == np.int64
    assert expected or corrupted.tolist() == ids


def corruptions(row):
    """Every way to corrupt a row, as a function of a seed."""
    yield lambda seed: mask_spans(row, one_word_per_token(len(row)), np.random.default_rng(seed), **VOCABULARY)[0]
    for variant in ("paper", "lineage", "released"):
        yield lambda seed, v=variant: cut_fragments(row, np.random.default_rng(seed), variant=v).target_ids


def test_every_corruption_is_a_function_of_the_generator():
    for corrupt in corruptions(text_row(200)):
        assert np.array_equal(corrupt(1), corrupt(1)) and not np.array_equal(corrupt(1), corrupt(2))


def test_a_piece_cut_off_from_its_word_is_a_word():
    """A text cut out of another may begin within a word; its first piece must not drag [CLS] along."""
    for seed in range(20):
        _, hidden = mask_spans(
            [0, 7, 8, 9, 2],
            [-1, 1, 1, 0, -1],
            np.random.default_rng(seed),
            ratio=0.4,
            max_length=1,
            **VOCABULARY,
        )
        assert 0 not in hidden and 4 not in hidden and len(hidden) == 2


def test_masking_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match=r"differ in length.*got: 3"):
        mask_spans([0, 5, 6, 2], [-1, 0, -1], np.random.default_rng(0), **VOCABULARY)
    with pytest.raises(UsageError, match="0 < p <= 1"):
        mask_spans([0, 5, 2], [-1, 0, -1], np.random.default_rng(0), p=0.0, **VOCABULARY)


def test_masking_takes_no_more_than_its_share_of_time():
    """15 us for 20 tokens and 45 us for 256, measured on a quiet machine."""
    rng = np.random.default_rng(0)

    def mask(given):
        for _ in range(20):
            mask_spans(*given, rng, **VOCABULARY)

    short, long = ((text_row(n), one_word_per_token(n)) for n in (256, 2560))
    assert growth(mask, short, long) < 40


# --- fragments


def fragments_of(cut):
    """[(ids, positions)] of the target's fragments without their [CLS]."""
    begins = [*np.flatnonzero(cut.target_ids == 0), len(cut.target_ids)]
    return [
        (cut.target_ids[begin + 1 : end].tolist(), cut.target_positions[begin + 1 : end].tolist())
        for begin, end in itertools.pairwise(begins)
    ]


@settings(max_examples=400, deadline=None)
@given(n=st.integers(2, 600), seed=st.integers(0, 2**32), variant=st.sampled_from(["paper", "lineage"]))
def test_source_and_target_share_out_the_text(n, seed, variant):
    row = text_row(n)
    before = row.copy()
    cut = cut_fragments(row, np.random.default_rng(seed), variant=variant)
    arrays = [cut.source_ids, cut.source_positions, cut.target_ids, cut.target_positions, cut.supervised]
    assert all(array.dtype == np.int64 for array in arrays)
    assert np.array_equal(row, before)
    assert len(cut.source_ids) == len(cut.source_positions) and len(cut.target_ids) == len(cut.target_positions)

    source, target = cut.source_ids[cut.source_ids >= 100], cut.target_ids[cut.target_ids >= 100]
    assert np.all(np.diff(source) > 0) and np.all(np.diff(target) > 0)  # order kept
    assert sorted([*source, *target]) == row[1:-1].tolist()  # every token on one side, once

    # Every token of the text keeps its position: 100 stood at row 1, position 3.
    for ids, positions in ((cut.source_ids, cut.source_positions), (cut.target_ids, cut.target_positions)):
        assert np.array_equal(positions[ids >= 100], ids[ids >= 100] - 97)
    assert cut.source_ids[0] == 0 and cut.source_positions[0] == 2
    assert cut.source_ids[-1] == 2 and cut.source_positions[-1] == n + 1
    assert np.count_nonzero(cut.source_ids < 100) == 2

    # What is written is asked for exactly once, [CLS] never.
    assert cut.labels.tolist() == [i for i in cut.target_ids if i != 0]
    for ids, positions in fragments_of(cut):
        assert positions == list(range(positions[0], positions[0] + len(ids)))
    opens = np.flatnonzero(cut.target_ids == 0)
    assert np.array_equal(cut.target_positions[opens] + 1, cut.target_positions[opens + 1])


@settings(max_examples=200, deadline=None)
@given(
    m=st.integers(1, 500),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0.01, 0.5),
    min_length=st.integers(1, 6),
    more=st.integers(0, 30),
)
def test_paper_fragments_spend_the_budget_apart_from_each_other(m, seed, fraction, min_length, more):
    rng = np.random.default_rng(seed)
    cut = cut_fragments(text_row(m + 2), rng, fraction=fraction, min_length=min_length, max_length=min_length + more)
    fragments = fragments_of(cut)
    assert all(ids[-1] == 2 for ids, _ in fragments)
    lengths = [len(ids) - 1 for ids, _ in fragments]
    assert sum(lengths) == math.ceil(fraction * m)
    assert all(1 <= length <= min_length + more for length in lengths)
    assert sum(length < min_length for length in lengths) <= 1  # the one cut to fit
    for (_, left), (_, right) in itertools.pairwise(fragments):
        assert left[-1] < right[0]  # where the end mark stands is a token that stayed in the source


def test_paper_lengths_are_uniform():
    rng = np.random.default_rng(1)
    lengths = []
    for _ in range(100):
        lengths += [len(ids) - 1 for ids, _ in fragments_of(cut_fragments(text_row(8002), rng))]
    counts = Counter(lengths)
    whole = [counts[length] for length in range(4, 33)]
    # One in about 110 is cut to fit, a little more often short than long: allow for that on top of chance.
    assert sum(whole) > 10_000
    assert chisquare(whole).statistic < 80
    assert np.mean(lengths) == pytest.approx(18, abs=0.3)


def test_paper_places_are_uniform():
    rng = np.random.default_rng(2)
    one = Counter(int(cut_fragments(text_row(10), rng).target_ids[1]) for _ in range(3500))
    assert sorted(one) == list(range(100, 107)) and chisquare(list(one.values())).pvalue > 1e-3
    # Two single tokens of six that do not touch: 10 ways.
    two = Counter()
    for _ in range(5000):
        cut = cut_fragments(text_row(8), rng, fraction=1 / 3, min_length=1, max_length=1)
        two[tuple(i for i in cut.target_ids.tolist() if i >= 100)] += 1
    assert len(two) == 10 and chisquare(list(two.values())).pvalue > 1e-3


def test_paper_fragments_of_an_empty_text():
    cut = cut_fragments([0, 2], np.random.default_rng(0))
    assert cut.source_ids.tolist() == [0, 2]
    assert cut.target_ids.tolist() == cut.labels.tolist() == []


def test_lineage_slices():
    """Two scales of slices, either side first with equal chance, about a quarter of the text written."""
    rng = np.random.default_rng(4)
    first, shares, target_lengths, source_lengths = Counter(), [], [], []
    for _ in range(600):
        cut = cut_fragments(text_row(2002), rng, variant="lineage")
        spans = [(positions[0] - 2, positions[-1] - 1) for _, positions in fragments_of(cut)]  # rows of the text
        first["target" if spans[0][0] == 1 else "source"] += 1
        shares.append(sum(end - begin for begin, end in spans) / 2000)
        target_lengths += [end - begin for begin, end in spans[:-1]]
        source_lengths += [right[0] - left[1] for left, right in itertools.pairwise(spans)]
    assert chisquare(list(first.values())).pvalue > 1e-3
    small, large = SLICES
    # mean of target over mean of both, each slice being small with chance 0.4
    mean_source, mean_target = (0.4 * np.mean(a) + 0.6 * np.mean(b) for a, b in zip(small, large))
    assert np.mean(shares) == pytest.approx(mean_target / (mean_source + mean_target), abs=0.01)
    assert np.mean(target_lengths) == pytest.approx(mean_target, rel=0.03)
    assert np.mean(source_lengths) == pytest.approx(mean_source, rel=0.03)
    assert (min(target_lengths), max(target_lengths)) == (1, 32)
    assert (min(source_lengths), max(source_lengths)) == (3, 96)


def test_lineage_turns_a_short_text_into_target():
    cut = cut_fragments([0, 7, 8, 2], np.random.default_rng(0), variant="lineage")
    assert (cut.source_ids.tolist(), cut.source_positions.tolist()) == ([0, 2], [2, 5])
    assert (cut.target_ids.tolist(), cut.target_positions.tolist()) == ([0, 7, 8, 2], [2, 3, 4, 5])
    assert cut.labels.tolist() == [7, 8, 2]


def test_cutting_refuses_what_it_cannot_do():
    rng = np.random.default_rng(0)
    for wrong in ({"fraction": 0.0}, {"fraction": 0.6}, {"min_length": 0}, {"min_length": 9, "max_length": 8}):
        with pytest.raises(UsageError, match="apart"):
            cut_fragments(text_row(50), rng, **wrong)
    with pytest.raises(UsageError, match="papers"):
        cut_fragments(text_row(50), rng, variant="papers")
    with pytest.raises(UsageError, match="1 tokens"):
        cut_fragments([0], rng)


def test_what_stands_instead_of_a_hidden_word_can_be_chosen():
    ids, places = np.arange(100, 1100), np.arange(0, 1000, 2)
    instead = np.where(places % 4, 7, -1)
    row = hide(ids, places, np.random.default_rng(0), vocab_size=50, mask_id=49, instead=instead)
    assert (row[1::2] == ids[1::2]).all()
    fate = Counter("mask" if new == 49 else "kept" if new == old else "other" for new, old in zip(row[::2], ids[::2]))
    assert fate["mask"] > 360 and 25 < fate["kept"] < 80 and 25 < fate["other"] < 80
    swapped = (row[places] != 49) & (row[places] != ids[places])
    assert (row[places][swapped & (instead == 7)] == 7).all() and (swapped & (instead == 7)).any()
    assert set(row[places][swapped & (instead < 0)].tolist()) <= set(range(4, 50))
    plain = hide(ids, places, np.random.default_rng(0), vocab_size=50, mask_id=49)
    assert (plain[places[instead < 0]] == row[places[instead < 0]]).all()  # the same chance, whatever is chosen
