"""Benchmarks run and report ratios; how large they are is no matter of tests."""

from pathlib import Path

import pytest

from unimo.errors import UsageError
from unimo.speed import generate, growth, measure, peers, search, train
from unimo.speed.turns import in_turns
from unimo.train import muon


def test_rounds_take_turns_in_both_orders_and_the_first_does_not_count():
    seen = []
    seconds = in_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "abba" * 2 and {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_sharing_counts_fewer_operations_the_more_texts_there_are():
    rows = measure("sharing", size="tiny", rounds=1)
    fewer = [row["fewer operations"] for row in rows]
    assert (
        [row["K"] for row in rows] == [1, 4, 20] and fewer == sorted(fewer) and fewer[0] == pytest.approx(1, abs=0.01)
    )
    # Per layer a token costs its projections and feed-forward part; 57 tokens a text against 37 / K + 20.
    assert fewer[2] == pytest.approx(57 / (37 / 20 + 20), rel=0.05)
    assert all(row["speed-up"] > 0 and row["machine"] for row in rows)


def test_mask_builds_a_long_row():
    rows = measure("mask", rounds=1)
    assert [row["sequences"] for row in rows] == ["pairs", "passages"]
    assert all(99_000 < row["T"] <= 100_000 and row["milliseconds"] > 0 and row["speed-up, short"] > 0 for row in rows)


@pytest.mark.parametrize("name, peer", [("embed", "CLIP"), ("generate", "BLIP")])
def test_peers_of_transformers_are_timed_beside_ours(name, peer, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(peers, "SIDE", 32)
    monkeypatch.setattr(generate, "WORDS", 3)
    rows = measure(name, size="tiny", rounds=1)
    assert {row["against"] for row in rows} == {"cast at every call", peer} and len(rows) >= 4
    assert all(row["speed-up"] > 0 and row["milliseconds, kept"] > 0 and row["size"] == "tiny" for row in rows)
    assert all(row["lowest cosine with float32"] > 0.99 for row in rows if name == "embed")


def test_search_is_timed_beside_faiss_and_loses_no_row(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "SIZES", (3000,))
    rows = measure("search", rounds=1)
    assert [(row["Q"], row["against"]) for row in rows] == [
        (q, peer) for q in (1, 32) for peer in ("faiss", "double precision")
    ]
    assert all(row["speed-up"] > 0 for row in rows)


def test_growth_has_a_row_for_each_size(monkeypatch):
    monkeypatch.setattr(growth, "SIZES", (300, 3000))
    rows = measure("growth")
    assert [row["n"] for row in rows] == [300, 3000]
    assert all(value >= 0 for row in rows for value in row.values() if isinstance(value, float))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak of a process")
def test_a_model_is_opened_in_little_more_than_its_own_memory():
    """Built first and copied into, it takes twice its memory; 1.3 leaves room for what else a small model needs."""
    (row,) = measure("load", size="small", rounds=1)
    assert row["MB of weights"] > 50 and 1 <= row["peak in weights"] < 1.3


def test_a_training_step_beside_muon_in_float32(monkeypatch):
    """The whole step's fraction of the machine's rate is below one; Muon's own precision is back in place."""
    monkeypatch.setattr(train, "PAIRS", {"tiny": 4})
    before = muon.fast_dtype
    beside, whole = measure("train", size="tiny", rounds=1)
    assert beside["against"] == "Muon in float32" and beside["speed-up"] > 0
    assert whole["pairs"] == 4 and 0 < whole["fraction of the matrix-product rate"] < 1
    assert muon.fast_dtype is before


def test_unknown_benchmarks_are_refused():
    with pytest.raises(UsageError, match="sharing"):
        measure("everything")
