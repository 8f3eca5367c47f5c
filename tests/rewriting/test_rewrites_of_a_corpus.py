"""Prepared rewrites as training reads them, people look at them and judges get them."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from rewrite_files import FEW, PAIRS, pairs_file, quiet, the_file

from unimo.corpus.corpus import open_corpus
from unimo.data.sample import NODE_KINDS
from unimo.errors import DataError, UsageError
from unimo.rewriting.judging import write_sample
from unimo.rewriting.page import show
from unimo.rewriting.prepare import Counts, rewrites
from unimo.rewriting.store import Negative, Rewrites, sidecar_path
from unimo.rng import generator
from unimo.synthetic.dataset import write_world
from unimo.tokenizer import Tokenizer

# --- reading ----------------------------------------------------------------------------------------


def test_samples_are_token_ids_of_what_was_requested(corpus, reader):
    positives, negatives = reader.sample(3, 1, generator(1), positives=2, negatives=6)
    assert positives == []  # no model was given
    known = {negative.text for negative in reader.negatives(3, 1)}
    texts = [Tokenizer.default().decode(ids) for ids in negatives]
    assert set(texts) <= known and len(set(texts)) == 6
    assert all(ids.dtype == np.uint16 for ids in negatives)
    again = reader.sample(3, 1, generator(1), positives=2, negatives=6)[1]
    assert all(np.array_equal(one, other) for one, other in zip(negatives, again))
    for place in [(0, 2), (0, -1), (PAIRS, 0)]:
        with pytest.raises(IndexError):
            reader.negatives(*place)


def kind_of(negative: Negative) -> str:
    old, new = ([getattr(change, side).lower() for change in negative.changes] for side in ("old", "new"))
    if len(old) == 2 and old == new[::-1]:
        return f"{negative.changes[0].kind} exchange"
    return negative.kind if len(old) == 1 else "several" if old else "sentence"


def test_kinds_of_negatives_take_turns(reader):
    for i in range(20):
        kinds = {negative.text: kind_of(negative) for negative in reader.negatives(i, 0)}
        there = Counter(kinds.values())
        for wanted in (1, 4, 7, 100):
            _, negatives = reader.sample(i, 0, generator(i), positives=0, negatives=wanted)
            drawn = Counter(kinds[Tokenizer.default().decode(ids)] for ids in negatives)
            assert drawn.total() == min(wanted, there.total())
            # None is drawn once more than another that has some left.
            most = max(drawn.values())
            assert all(drawn[kind] >= min(there[kind], most - 1) for kind in there)


def test_only_relations_change_nothing_but_who_is_where(corpus, reader):
    whose = {"relation", "relation exchange", "object exchange"}
    met = 0
    for i in range(PAIRS):
        kinds = {negative.text: kind_of(negative) for negative in reader.negatives(i, 1)}
        there = sum(kind in whose for kind in kinds.values())
        _, negatives = reader.sample(i, 1, generator(i), positives=0, negatives=3, only=tuple(whose))
        drawn = [kinds[Tokenizer.default().decode(ids)] for ids in negatives]
        assert len(drawn) == min(3, there or len(kinds))  # a caption without relations has all that it has otherwise
        assert not there or set(drawn) <= whose
        met += bool(there)
    assert met > PAIRS // 3


def new_words(change) -> set[int]:
    """Characters of the words of a relation that a rewrite replaces by others."""
    words = list(re.finditer(r"\S+", change.old))
    others = change.new.split()
    kept = [word[0] == other for word, other in zip(words, others)] if len(words) == len(others) else [False] * 99
    return {change.span[0] + k for word, same in zip(words, kept) if not same for k in range(*word.span())}


def test_nodes_are_found_among_the_tokens(reader, corpus):
    """Every word that a rewrite of one node, or of a relation, replaces, and no other; read off the decoded text."""
    tokenizer, met, fewer, turns = Tokenizer.default(), Counter(), 0, 0
    for i in range(PAIRS):
        caption = corpus.text(i, 0)
        ids = tokenizer.encode(caption)
        ends = [len(tokenizer.decode(ids[:k])) for k in range(len(ids) + 1)]
        nodes = reader.nodes(i, 0)
        assert nodes.places.tolist() == sorted(set(nodes.places.tolist()))
        changes = [
            change
            for negative in reader.negatives(i, 0)
            for change in negative.changes
            if negative.level == "word" or change.kind == "relation"
        ]
        for kind, name in enumerate(NODE_KINDS):
            mine = nodes.places[nodes.kinds == kind]
            found = {c for k in mine for c in range(ends[k], ends[k + 1]) if not caption[c].isspace()}
            changed = [new_words(change) for change in changes if change.kind == name]
            assert found == set().union(*changed)
            met[name] += bool(found)
        for number in np.unique(nodes.numbers):  # one node is one of the changes
            node = nodes.at(nodes.numbers == number)
            characters = {c for k in node.places for c in range(ends[k], ends[k + 1]) if not caption[c].isspace()}
            assert characters in [new_words(change) for change in changes if change.kind == NODE_KINDS[node.kinds[0]]]
        fewer += any(new_words(change) < set(range(*change.span)) for change in changes if change.kind == "relation")
        texts = {negative.text for negative in reader.negatives(i, 0) if len(negative.changes) == 1}
        for number in np.unique(nodes.numbers):  # with what it has instead the caption is one that was prepared
            node = nodes.at(nodes.numbers == number)
            if NODE_KINDS[node.kinds[0]] != "relation" and (node.instead >= 0).all():
                turned = np.array(ids)
                turned[node.places] = node.instead
                assert tokenizer.decode(turned) in texts
                turns += 1
    assert min(met.values()) > PAIRS // 2 and fewer > PAIRS // 10 and turns > PAIRS
    assert reader.nodes(3, 0) is reader.nodes(3, 0)


def test_a_reader_can_be_handed_to_a_worker(reader):
    assert pickle.loads(pickle.dumps(reader)).negatives(5, 0) == reader.negatives(5, 0)


def test_rewrites_of_another_corpus_are_refused(world, out, corpus, tmp_path):
    with pytest.raises(DataError, match="no rewrites"):
        Rewrites.open(tmp_path, corpus)
    other = tmp_path / "other" / "world"
    write_world(other, seed=3, pairs=20, images=0, texts=0, heldout=0, compositional=0, classes=0, size=32)
    strange = open_corpus("pairs", other / "pairs")
    place = sidecar_path(strange.ranges()[0][0], tmp_path)
    place.write_bytes(the_file(out).read_bytes())
    with pytest.raises(DataError, match="another corpus"):
        Rewrites.open(tmp_path, strange)


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_marks_what_changed(corpus, reader, tmp_path):
    show(corpus, reader, tmp_path / "page.html", n=5, per_level=3)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 5 and page.count("data:image/") == 5
    assert not re.search(r"https?:|<script|<link|@import|src=\"(?!data:)", page)
    marked = re.findall(r"<del>(.+?)</del> <ins>(.+?)</ins>", page)
    assert len(marked) >= 5 and all(old != new for old, new in marked)
    HTMLParser().feed(page)
    show(corpus, reader, tmp_path / "same.html", n=5, per_level=3)
    assert (tmp_path / "same.html").read_text() == page
    with pytest.raises(UsageError):
        show(corpus, reader, tmp_path / "none.html", n=0)


def test_strangers_captions_are_escaped(tmp_path):
    captions = {"x": ["a <b>red</b> dog on the <script>alert(1)</script> grass ."], "y": ["a blue cat & a dog ."]}
    path = pairs_file(tmp_path / "pairs", captions)
    rewrites(path, out=tmp_path, counts=FEW, say=quiet)
    corpus = open_corpus("pairs", path)
    show(corpus, Rewrites.open(tmp_path, corpus), tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()


# --- the sample to be judged ------------------------------------------------------------------------


def test_a_sample_to_be_judged_holds_negatives_that_were_written(corpus, reader, tmp_path):
    assert write_sample(corpus, reader, tmp_path / "sample.jsonl", n=30, seed=3) == 30
    rows = [json.loads(line) for line in (tmp_path / "sample.jsonl").read_text().splitlines()]
    assert [row["level"] for row in rows] == ["sentence", "phrase", "word"] * 10
    seen = set()
    for row in rows:
        i = corpus.keys.index(row["image"])
        captions = [corpus.text(i, j) for j in range(2)]
        j = captions.index(row["positive"])
        assert row["others"] == [captions[1 - j]] and row["true_of_image"] is None
        (same,) = [n for n in reader.negatives(i, j) if (n.level, n.text) == (row["level"], row["negative"])]
        assert row["kind"] == same.kind and row["changes"] == [[c.old, c.new] for c in same.changes]
        assert (row["source"] is None) == (row["level"] != "sentence")
        seen.add((i, j))
    assert len(seen) == 30
    write_sample(corpus, reader, tmp_path / "same.jsonl", n=30, seed=3)
    assert (tmp_path / "same.jsonl").read_bytes() == (tmp_path / "sample.jsonl").read_bytes()
    write_sample(corpus, reader, tmp_path / "other.jsonl", n=30, seed=4)
    assert (tmp_path / "other.jsonl").read_bytes() != (tmp_path / "sample.jsonl").read_bytes()
    with pytest.raises(UsageError, match="there already"):  # it may have been judged by now
        write_sample(corpus, reader, tmp_path / "sample.jsonl", n=30)
    with pytest.raises(UsageError, match="no negatives to sample"):
        write_sample(corpus, reader, tmp_path / "none.jsonl", n=0)


def test_a_sample_of_few_captions_or_levels_ends(tmp_path):
    captions = {
        "x": ["a red dog on the grass .", "running"],
        "y": ["a blue cat on the bed ."],
        "z": ["a red cat ."] * 2,
    }
    path = pairs_file(tmp_path / "pairs", captions)
    rewrites(path, out=tmp_path, counts=Counts(0, 0, 0, 9), say=quiet)
    corpus = open_corpus("pairs", path)
    count = write_sample(corpus, Rewrites.open(tmp_path, corpus), tmp_path / "sample.jsonl", n=50)
    rows = [json.loads(line) for line in (tmp_path / "sample.jsonl").read_text().splitlines()]
    assert 0 < count == len(rows) <= 5 and {row["level"] for row in rows} == {"word"}
