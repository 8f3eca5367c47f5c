"""Scores are the same to the last digit in any order of items and in any process."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_cases import WORDS

from unimo.metrics import METRICS
from unimo.metrics.intervals import Score

ITEMS = 83


def texts(r, count, max_length=9):
    return [" ".join(r.choice(WORDS) for _ in range(r.randint(1, max_length))) for _ in range(count)]


@pytest.fixture(scope="module")
def written():
    r = random.Random(0)
    return texts(r, ITEMS), [texts(r, r.randint(1, 3)) for _ in range(ITEMS)]


def values(result):
    return result.value if isinstance(result, Score) else {name: score.value for name, score in result.items()}


@pytest.mark.parametrize(
    "name", ["rouge", "captions", "squad_em", "squad_f1", "coqa_em", "coqa_f1", "vqa_accuracy", "daquar_accuracy"]
)
def test_texts_in_any_order_score_the_same_to_the_last_digit(name, written):
    said, wanted = written
    order = np.random.default_rng(1).permutation(ITEMS)
    shuffled = METRICS[name]([said[i] for i in order], [wanted[i] for i in order])
    assert values(shuffled) == values(METRICS[name](said, wanted))


def test_another_process_with_other_hashes_finds_the_same_digits():
    code = """
from random_cases import corpora
from unimo.metrics.captions import cider_d_each
said, wanted = max(corpora(40), key=lambda case: len(case[0]))
print(cider_d_each(said, wanted).tolist())
"""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1
    assert len(printed.pop()) > 100
