"""Random hard negatives as a file to be judged by hand: how many are true of their image after all?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unimo.corpus.corpus import Corpus
from unimo.disk import write_atomic
from unimo.errors import UsageError
from unimo.rewriting.store import LEVELS, Negative, Rewrites
from unimo.rng import generator

JUDGEMENT = "true_of_image"  # field that a judge fills with true or false


def write_sample(corpus: Corpus, rewrites: Rewrites, path: str | Path, *, n: int = 200, seed: int = 0) -> int:
    """Write n random negatives, one line each, no two of one caption; returns how many there were (at most n).

    The three levels are drawn alike often. It is a file of foils too (`unimo evaluate --set foils=...`). A line holds

        image (its key), level, kind ("attribute+object"), positive (the caption), negative,
        changes [[old, new], ...], others (captions of the same image),
        source (key of the image that a sentence level negative belongs to), true_of_image: null

    and the judge puts true or false in place of the null. Raises UsageError for n < 1 and where a file is already (it
    may hold judgements), ResourceError when the disk refuses.
    """
    if n < 1:
        raise UsageError("no negatives to sample", got=n, expected="at least 1")
    if Path(path).exists():
        raise UsageError("a sample is there already", where=path, do="move it: it may hold somebody's judgements")
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in islice(_drawn(corpus, rewrites, seed), n)]
    write_atomic(path, "".join(lines).encode())
    return len(lines)


def _drawn(corpus: Corpus, rewrites: Rewrites, seed: int) -> Iterator[dict[str, Any]]:
    """One negative of each caption that has any, captions in random order; of the level drawn least often so far."""
    assert corpus.caption_offsets is not None
    first, rng = corpus.caption_offsets, generator(seed, "sample", "rewrites")
    drawn = dict.fromkeys(LEVELS, 0)
    for row in rng.permutation(int(first[-1])):
        i = int(first.searchsorted(row, side="right")) - 1
        j = int(row - first[i])
        found = rewrites.negatives(i, j)
        if found:
            level = min({negative.level: None for negative in found}, key=lambda level: drawn[level])
            some = [negative for negative in found if negative.level == level]
            drawn[level] += 1
            yield _entry(corpus, i, j, some[int(rng.integers(len(some)))])


def _entry(corpus: Corpus, i: int, j: int, negative: Negative) -> dict[str, Any]:
    captions = corpus.captions(i)
    return {
        "image": corpus.keys[i],
        "level": negative.level,
        "kind": negative.kind,
        "positive": captions[j],
        "negative": negative.text,
        "changes": [[change.old, change.new] for change in negative.changes],
        "others": [text for k, text in enumerate(captions) if k != j],
        "source": None if negative.source is None else corpus.keys[negative.source[0]],
        JUDGEMENT: None,
    }
