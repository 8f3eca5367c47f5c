"""Benchmarks run and report ratios; how large they are is no matter of tests."""

import json
from functools import partial
from pathlib import Path

import pytest
from tiny_unimo2 import lively_model, random_images
from torch.utils.flop_counter import FlopCounterMode

from unimo.errors import DataError, UsageError
from unimo.inference import Pipeline
from unimo.recipes import find
from unimo.speed import generate, growth, measure, peers, search, train
from unimo.speed.compare import compare
from unimo.speed.products import NAME, products_alone
from unimo.speed.turns import in_turns, measured
from unimo.train import muon


def test_rounds_take_turns_in_both_orders_and_the_first_does_not_count():
    seen = []
    seconds = in_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "abba" * 2 and {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_sharing_counts_fewer_operations_the_more_texts_there_are():
    rows = list(measure("sharing", size="tiny", rounds=1))
    fewer = [row["fewer operations"] for row in rows]
    assert (
        [row["K"] for row in rows] == [1, 4, 20] and fewer == sorted(fewer) and fewer[0] == pytest.approx(1, abs=0.01)
    )
    # Per layer a token costs its projections and feed-forward part; 57 tokens a text against 37 / K + 20.
    assert fewer[2] == pytest.approx(57 / (37 / 20 + 20), rel=0.05)
    assert all(row["speed-up"]["low"] > 0 and row["machine"] for row in rows)


def test_mask_builds_a_long_row():
    rows = list(measure("mask", rounds=1))
    assert [row["sequences"] for row in rows] == ["pairs", "passages"]
    assert all(
        99_000 < row["T"] <= 100_000 and row["milliseconds"]["low"] > 0 and row["speed-up, short"]["low"] > 0
        for row in rows
    )


@pytest.mark.parametrize("name, peer", [("embed", "CLIP"), ("generate", "BLIP")])
def test_peers_of_transformers_are_timed_beside_ours(name, peer, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(peers, "SIDE", 32)
    monkeypatch.setattr(generate, "WORDS", 3)
    rows = list(measure(name, size="tiny", rounds=1))
    assert {row["against"] for row in rows} == {"cast at every call", peer, NAME} and len(rows) >= 6
    assert all(
        row["speed-up"]["low"] > 0 and row["milliseconds, kept"]["low"] > 0 and row["size"] == "tiny" for row in rows
    )
    assert all(row["lowest cosine with float32"] > 0.99 for row in rows if name == "embed")


def test_products_alone_are_all_operations_but_those_of_attention():
    """As torch's own counter sees them."""
    pipeline = Pipeline(lively_model(width=64), precision="fp32")
    images = [image.permute(1, 2, 0).numpy() for image in random_images(3)]
    call = partial(pipeline.encode_image, images)
    counts = []
    for each in (call, products_alone(call)):
        with FlopCounterMode(display=False) as counter:
            each()
        counts.append({str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()})
    whole, products = counts
    assert sum(products.values()) > 1e6
    assert products == {op: flops for op, flops in whole.items() if "attention" not in op and "bmm" not in op}


def test_search_is_timed_beside_faiss_and_loses_no_row(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "SIZES", (3000,))
    rows = list(measure("search", rounds=1))
    assert [(row["Q"], row["against"]) for row in rows] == [
        (q, peer) for q in (1, 32) for peer in ("faiss", "double precision")
    ]
    assert all(row["speed-up"]["low"] > 0 for row in rows)


def test_growth_has_a_row_for_each_size(monkeypatch):
    monkeypatch.setattr(growth, "SIZES", (300, 3000))
    rows = list(measure("growth"))
    assert [row["n"] for row in rows] == [300, 3000]
    assert all(value >= 0 for row in rows for value in row.values() if isinstance(value, float))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak of a process")
def test_a_model_is_opened_in_little_more_than_its_own_memory():
    """Built first and copied into, it takes twice its memory; 1.3 leaves room for what else a small model needs."""
    (row,) = measure("load", size="small", rounds=1)
    assert row["MB of weights"] > 50 and 1 <= row["peak in weights"]["high"] < 1.3


def test_a_training_step_beside_muon_in_float32(monkeypatch):
    """The whole step's fraction of the machine's rate is below one; Muon's own precision is back in place."""
    monkeypatch.setattr(train, "PAIRS", {"tiny": 4})
    before = muon.fast_dtype
    whole, beside = measure("train", size="tiny", rounds=1)
    assert beside["against"] == "Muon in float32" and beside["speed-up"]["low"] > 0
    assert whole["pairs"] == 4 and 0 < whole["fraction of the matrix-product rate"]["value"] < 1
    assert muon.fast_dtype is before


@pytest.mark.parametrize("size, recipe", [("tiny", "photos"), ("base", "base")])
def test_a_timed_step_fuses_as_many_pairs_of_each_as_its_recipe(size, recipe):
    """Eight pairs that all pass every objective would cost three times what they cost in recipe `base`."""
    timed, whole = train._recipe(size), find(recipe)
    pairs = train.PAIRS.get(size, 8)
    assert all(
        getattr(timed.objectives, name).pairs / pairs == getattr(whole.objectives, name).pairs / whole.batch.pairs
        for name in train.ON_A_PART
    )


def test_unknown_benchmarks_are_refused():
    with pytest.raises(UsageError, match="sharing"):
        measure("everything")


def rows_of(path: Path, cpu: str = "avx2", **rows) -> Path:
    lines = [{"benchmark": name, "K": 4, **values, "machine": {"cpu": cpu}} for name, values in rows.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_two_files_are_compared_row_by_row_and_what_only_one_has_is_named(tmp_path):
    before = rows_of(
        tmp_path / "before.jsonl",
        slower={"milliseconds": measured([1, 2, 3], 1), "speed-up": measured([4, 5, 6], 1)},
        touching={"milliseconds": measured([1, 2, 4], 1)},
        once={"milliseconds": 2.0, "speed-up": measured([2], 1)},
        gone={"milliseconds": measured([1, 2], 1)},
    )
    after = rows_of(
        tmp_path / "after.jsonl",
        cpu="amx_bf16",
        slower={"milliseconds": measured([4, 6, 8], 1), "speed-up": measured([7, 10, 11], 1)},
        touching={"milliseconds": measured([4, 5, 6], 1)},
        once={"milliseconds": 3.0, "speed-up": measured([4], 1)},
        new={"milliseconds": measured([1, 2], 1)},
    )
    machine, _, _, _, *found = compare(before, after)
    assert machine == "cpu: avx2, then amx_bf16"
    cells = [line.strip("| ").split(" | ") for line in found]
    assert [(row.removesuffix(", K 4"), measure, *judged) for row, measure, _, _, *judged in sorted(cells)] == [
        ("gone", "milliseconds", "–", "only before"),
        ("new", "milliseconds", "–", "only after"),
        ("once", "milliseconds", "1.500", "unknown: one round"),
        ("once", "speed-up", "2.000", "unknown: one round"),
        ("slower", "milliseconds", "3.000 [1.333, 8.000]", "worse"),
        ("slower", "speed-up", "2.000 [1.167, 2.750]", "better"),
        ("touching", "milliseconds", "2.500 [1.000, 6.000]", "no difference"),
    ]


def test_what_is_measured_can_be_compared_with_itself(tmp_path):
    """Every row of a benchmark as it is printed; nothing differs from itself."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in measure("mask", rounds=2)))
    lines = compare(file, file)
    assert len(lines) == 2 + 4 and all(line.endswith("| no difference |") for line in lines[2:])


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"benchmark": "x"}', '{"speed-up": {"value": "fast"}}', '{"a": 1.0}\n' * 2]
)
def test_files_without_timings_are_refused_by_name(tmp_path, text):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        compare(file, file)
