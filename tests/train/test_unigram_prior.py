"""A run may begin with the word frequencies of its texts and captions, and words that never occur stay possible."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_run import tiny
from tiny_task import quiet

from unimo.tokenizer import Tokenizer
from unimo.train.pretraining import Pretraining

TEXTS = ["the dog sleeps", "the dog runs over the hill", "a lamp stands"]


@pytest.mark.parametrize("restricted", ["true", "false"])
def test_words_are_first_predicted_by_their_frequency(tmp_path, restricted):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    only_texts = (f"data.texts={path}", "data.pairs=", "data.images=", "unigram_prior=true")
    job = Pretraining(tiny(tmp_path, *only_texts, f"restrict_vocabulary={restricted}"))
    job.open(tmp_path / "run", quiet)
    model = job.build()
    tokenizer = Tokenizer.default()
    # Every text ends with a [SEP] that is to be written.
    counted = Counter(id for text in TEXTS for id in [*tokenizer.encode(text), tokenizer.sep])
    share = model.language_model.bias.detach().softmax(-1).double().numpy()
    total = sum(counted.values()) + len(share)
    expected = np.full(len(share), 1 / total)
    for id, count in counted.items():
        expected[id] = (count + 1) / total
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    states = torch.zeros(1, model.width)  # of which the head's own LayerNorm makes nothing
    logits = model.word_logits(states)[0]
    assert int(logits.argmax()) == max(counted, key=counted.__getitem__)
