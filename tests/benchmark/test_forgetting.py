"""What was forgotten: paired differences of scores over the same items, from a file and a report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from unimo.benchmark.forgetting import forgotten, write_before
from unimo.errors import DataError
from unimo.metrics import bleu, f1, fraction_by_kind
from unimo.metrics.intervals import fraction_score
from unimo.metrics.paired import paired_bootstrap

FACTS = {"data, pairs: heldout": "abc", "command": "unimo"}


def whole(**scores) -> dict:
    return {
        "facts": dict(FACTS),
        "scores": [{"task": "T", "metric": k, "score": v, "unit": "%"} for k, v in scores.items()],
    }


def lost(tmp_path: Path, before: dict, after: dict) -> dict:
    write_before(tmp_path / "sums.json", whole(**before))
    rows = forgotten(tmp_path / "sums.json", whole(**after))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    return {row["ability"].removeprefix("T: "): row for row in rows}


def test_the_interval_is_that_of_the_same_items_and_narrower_than_two_apart(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.6
    after = before & (rng.random(400) < 0.9)  # forgets a tenth, learns nothing
    images = np.repeat(np.arange(100), 4)
    first, second = (fraction_score(hits, groups=images) for hits in (before, after))
    found = lost(tmp_path, {"hits": first}, {"hits": second})["hits"]
    own = paired_bootstrap(before, after, groups=images).difference
    assert found["difference"]["value"] == pytest.approx(np.mean(before) - np.mean(after))
    assert (found["difference"]["low"], found["difference"]["high"]) == pytest.approx((own.low, own.high))
    assert found["difference"]["low"] > 0 and found["difference"]["n"] == 400
    apart = math.hypot(first.high - first.low, second.high - second.low)
    assert found["difference"]["high"] - found["difference"]["low"] < 0.7 * apart
    assert found["before"] == first.to_dict() and found["after"] == second.to_dict()


def test_nothing_changed_is_no_difference_and_exchanged_reports_turn_the_sign(tmp_path):
    hits = np.arange(50) % 3 == 0
    one, other = fraction_score(hits), fraction_score(~hits)
    same = lost(tmp_path, {"hits": one}, {"hits": one})["hits"]["difference"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    there = lost(tmp_path, {"hits": one}, {"hits": other})["hits"]["difference"]
    back = lost(tmp_path, {"hits": other}, {"hits": one})["hits"]["difference"]
    assert [there[k] for k in ("value", "low", "high")] == pytest.approx([-back[k] for k in ("value", "high", "low")])


def test_scores_that_are_no_mean_are_paired_by_their_sums(tmp_path):
    rng = np.random.default_rng(1)
    words = [[str(w) for w in rng.integers(9, size=12)] for _ in range(40)]
    worse = [sentence[:-4] + ["?"] * 4 for sentence in words]
    first, second = (bleu(predicted, [[sentence] for sentence in words])["BLEU-4"] for predicted in (words, worse))
    x = rng.random(40) < 0.5
    found = lost(
        tmp_path,
        {"BLEU-4": first, "f1": f1(x, x)},
        {"BLEU-4": second, "f1": f1(x ^ (rng.random(40) < 0.3), x)},
    )
    for row in found.values():
        assert 0 < row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]


def test_a_score_without_items_has_no_interval_and_an_undefined_one_no_difference(tmp_path):
    hits = fraction_score([1.0, 0.0, 1.0])
    found = lost(
        tmp_path,
        {"number": 4.0, "undefined": math.nan, "other items": hits, "gone": hits},
        {"number": 1.5, "undefined": 0.5, "other items": fraction_score([1.0, 0.0]), "new": hits},
    )
    assert set(found) == {"number", "undefined", "other items"}
    assert found["number"]["difference"] == {"value": 2.5, "low": None, "high": None, "n": None}
    assert found["undefined"]["difference"] is None and found["undefined"]["before"]["value"] is None
    assert found["other items"]["difference"]["low"] is None


def test_other_data_are_refused(tmp_path):
    hits = fraction_by_kind([1.0, 0.0], ["a", "b"])
    write_before(tmp_path / "sums.json", whole(**hits))
    changed = {**whole(**hits), "facts": {"data, pairs: heldout": "abd"}}
    more = {**whole(**hits), "facts": {**FACTS, "data, pairs: only of a baseline": "x"}}
    assert len(forgotten(tmp_path / "sums.json", more)) == 2
    with pytest.raises(DataError, match="other data") as caught:
        forgotten(tmp_path / "sums.json", changed)
    assert "abd" in str(caught.value.got) and "abc" in str(caught.value.expected)
