"""Span masking and fragment cutting against examples evaluated with the authors' published code.

That code draws from numpy's legacy generator. `LegacyDraws` dresses it as the new one, so our functions must
consume the same draws in the same order to end at the same ids.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from unimo.data.masking import _length_steps, cut_fragments, mask_spans

GOLDEN = Path(__file__).parents[1] / "golden" / "data"
SPANS = json.loads((GOLDEN / "span_mlm.json").read_text())["data"]
FRAGMENTS = json.loads((GOLDEN / "fragment_seq2seq.json").read_text())["data"]


class LegacyDraws:
    """`Generator.random` and `Generator.integers`, drawn as `numpy.random.seed(seed)` would have them."""

    def __init__(self, seed):
        legacy = np.random.RandomState(seed)
        self.random, self.integers = legacy.random_sample, legacy.randint


def seed_of(sample):
    return f"seed{sample['numpy_seed']}"


def test_span_length_distribution():
    chances = np.diff([0.0, *_length_steps(0.2, 10)])
    np.testing.assert_allclose(chances, SPANS["length_distribution"], rtol=1e-12)


@pytest.mark.parametrize("sample", SPANS["samples"], ids=seed_of)
def test_masked_spans(sample):
    corrupted, positions = mask_spans(
        sample["token_ids"],
        sample["segment_labels"],
        LegacyDraws(sample["numpy_seed"]),
        ratio=SPANS["ratio"],
        vocab_size=SPANS["vocab_size"],
        mask_id=SPANS["mask_id"],
    )
    assert positions.tolist() == sample["positions"]
    assert corrupted.tolist() == sample["masked_ids"]
    assert np.array(sample["token_ids"])[positions].tolist() == sample["labels"]


@pytest.mark.parametrize("sample", FRAGMENTS["samples"], ids=seed_of)
def test_fragments_as_released(sample):
    cut = cut_fragments(sample["token_ids"], LegacyDraws(sample["numpy_seed"]), variant="released")
    assert [*cut.source_ids, *cut.target_ids] == sample["out_ids"]
    assert [*cut.source_positions, *cut.target_positions] == sample["out_positions"]
    assert len(cut.source_ids) == sample["source_length"]
    assert (cut.supervised + len(cut.source_ids)).tolist() == sample["predicting_positions"]
    assert cut.labels.tolist() == sample["labels"]


@pytest.mark.parametrize("sample", FRAGMENTS["samples"], ids=seed_of)
def test_our_lineage_variant_differs_only_where_the_released_code_is_at_fault(sample):
    ids, seed = sample["token_ids"], sample["numpy_seed"]
    ours = cut_fragments(ids, LegacyDraws(seed), variant="lineage")
    theirs = cut_fragments(ids, LegacyDraws(seed), variant="released")
    assert ours.target_ids.tolist() == theirs.target_ids.tolist()
    assert ours.labels.tolist() == [label for label in sample["labels"] if label != 0]
    assert ours.source_ids.tolist() == [i for i in theirs.source_ids if i != 2] + [2]
    if theirs.source_positions[0] == 2:  # positions that count from 0 are one of the faults
        one_sep = len(ours.source_ids)
        assert ours.source_positions.tolist() == theirs.source_positions[:one_sep].tolist()
        assert ours.target_positions.tolist() == theirs.target_positions.tolist()
    else:
        assert ours.target_positions.tolist() == list(range(2, len(ids) + 2))
