"""Searches give what the plain formulas give, whatever their blocks; sentences are the whole document."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unimo.nearest import TfIdf, colours_and_edges, longest_row, nearest, rounding_error, top_k, within_reach
from unimo.neighbours.objects import Objects
from unimo.sentences import sentences, words

TEXTS = [
    "A dog runs on the beach.",
    "Two dogs run on the grass!",
    "The beach is long, the beach is white.",
    "Nothing here",
    "",
    "A dog runs on the beach.",
]
QUERY = "the dog is on the beach, a dog"


def split(text: str) -> list[str]:
    return [text[begin:end].strip() for begin, end in sentences(text)]


# ---- sentences


def test_sentences_end_at_stops_before_capitals_but_not_behind_abbreviations():
    text = 'Dr. Smith met J. R. Jones at 5 p.m. yesterday. "Why?" he asked. He left! See fig. 3… It was over.\nNew line'
    assert split(text) == [
        "Dr. Smith met J. R. Jones at 5 p.m. yesterday.",
        '"Why?" he asked.',
        "He left!",
        "See fig. 3…",
        "It was over.",
        "New line",
    ]


@pytest.mark.parametrize("text", ["", " ", "one", " One. Two. \n\n Three.\t", "a.b", "!?. \n", "É. Été. Ça."])
def test_sentences_are_the_whole_text(text):
    cuts = sentences(text)
    assert "".join(text[begin:end] for begin, end in cuts) == text
    assert all(begin < end for begin, end in cuts)


def test_hard_line_breaks_are_no_ends():
    lines = ["It was a dark and stormy night and the rain", "fell in torrents. Then it stopped."] * 6
    assert (
        split("\n".join(lines))
        == ["It was a dark and stormy night and the rain\nfell in torrents.", "Then it stopped."] * 6
    )
    assert split("\n\n".join(lines))[:2] == [lines[0], "fell in torrents."]


def test_words_are_lower_case_without_punctuation():
    assert words("A dog's ball, don’t_you (3.5)") == ["a", "dog's", "ball", "don’t", "you", "3", "5"]


# ---- texts


def plain_tf_idf(query: str, text: str) -> float:
    """The formula of the textbook, word by word."""
    documents = [words(one) for one in TEXTS]
    known = sorted({word for document in documents for word in document})

    def vector(some: list[str]) -> np.ndarray:
        idf = [math.log((1 + len(documents)) / (1 + sum(w in d for d in documents))) + 1 for w in known]
        return np.array([(1 + math.log(some.count(w))) * f if w in some else 0.0 for w, f in zip(known, idf)])

    a, b = vector(words(query)), vector(words(text))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def test_search_by_words_gives_the_plain_formula_in_order():
    index = TfIdf(TEXTS)
    ((found, scores),) = index.search(index.weigh([QUERY]), 10)
    expected = [plain_tf_idf(QUERY, text) for text in TEXTS]
    assert found.tolist() == [i for i in sorted(range(6), key=lambda i: (-round(expected[i], 5), i)) if expected[i] > 0]
    np.testing.assert_allclose(scores, [expected[i] for i in found], rtol=1e-5)
    assert found.tolist().index(0) + 1 == found.tolist().index(5)  # the same text twice: the earlier one first


def test_search_by_words_excludes_and_has_bounds():
    index = TfIdf(TEXTS)

    def search(text, k=10, **options):
        ((found, _),) = index.search(index.weigh([text]), k, **options)
        return found.tolist()

    assert search("dog") == [0, 5] and search("dog", exclude=[[0]]) == [5] and search("dog", 1) == [0]
    assert search("dog", 0) == search("dog", above=1.0) == search("zebra") == []
    assert search(TEXTS[0]) == [0, 5, 2, 1] and search(TEXTS[0], below=0.99) == [2, 1]
    for nothing in ([], ["", "!"]):
        empty = TfIdf(nothing)
        assert [len(found) for found, _ in empty.search(empty.weigh(["dog", ""]), 3, exclude=[[0], []])] == [0, 0]


def test_of_many_texts_those_with_the_rarest_words_are_compared():
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 61)
    texts = [" ".join(f"w{i}" for i in rng.choice(60, 6, p=chances / chances.sum())) for _ in range(800)]
    exact, bounded = TfIdf(texts), TfIdf(texts, candidates=200)
    queries, n = exact.weigh(texts[:80]), len(exact)
    everything = (queries @ exact.rows.T).toarray().astype(np.float32)
    best = 0
    for i, ((whole, scores), (numbers, some)) in enumerate(zip(exact.search(queries, 5), bounded.search(queries, n))):
        assert scores.tolist() == everything[i][whole].tolist() == sorted(everything[i], reverse=True)[:5]
        np.testing.assert_allclose(some, everything[i][numbers], rtol=1e-6)  # found ones have their whole cosine
        assert 0 < len(numbers) <= 200 and i in numbers
        best += len(set(whole) & set(numbers))
    assert best >= 0.8 * 5 * 80  # most of what the exact form finds


# ---- dense rows


@pytest.mark.parametrize("block", [1, 7, 64, 300])
def test_dense_search_equals_brute_force_from_a_mapped_file(block, tmp_path):
    rng = np.random.default_rng(1)
    table = rng.integers(-2, 3, (300, 4)).astype(np.float32)  # small integers: many exact ties
    np.save(tmp_path / "table.npy", table)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    queries = rng.normal(size=(9, 4)).astype(np.float32)
    excluded = [rng.integers(0, 300, 30) for _ in range(9)]
    found = nearest(queries, (mapped[i : i + block] for i in range(0, 300, block)), 20, exclude=excluded, above=0.0)
    for query, (numbers, scores), gone in zip(queries, found, excluded):
        expected = (table.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        expected[gone] = -np.inf
        order = [j for j in np.lexsort((np.arange(300), -expected)) if expected[j] > 0][:20]
        assert numbers.tolist() == order
        np.testing.assert_array_equal(scores, expected[order])


def in_double(queries, table, k):
    """The plain form: every product in double precision, rounded, then sorted."""
    scores = (np.asarray(queries, np.float64) @ np.asarray(table, np.float64).T).astype(np.float32)
    return [np.lexsort((np.arange(len(table)), -row))[:k].tolist() for row in scores]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-8])
def test_rows_that_single_precision_cannot_tell_apart_are_told_apart(kind, spread):
    """Around one direction: at 1e-8 all products are the same in single precision, and order is all in the rest."""
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(1, 96)) + spread * rng.normal(size=(1000, 96))).astype(kind)
    table[500:] = table[rng.integers(0, 500, 500)]  # and every row more than once
    queries = rng.normal(size=(5, 96))
    found = nearest(queries, [table[:333], table[333:340], table[340:]], 10)
    assert [numbers.tolist() for numbers, _ in found] == in_double(queries, table, 10)


def test_no_row_within_the_error_is_lost():
    """Products as wrong as they may be, in the worst way: the best rows lowered, all the others raised."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4, 500))
    errors = np.array([0.0, 0.01, 0.2, 3.0])
    best = np.argsort(-true, axis=1)[:, :7]
    wrong = true + errors[:, None]
    np.put_along_axis(wrong, best, np.take_along_axis(true, best, 1) - errors[:, None], 1)
    for floor in (np.full(4, -np.inf), np.take_along_axis(true, best, 1)[:, 6]):
        places = within_reach(wrong, floor, errors, 7)
        assert all(set(some) <= set(kept.tolist()) for some, kept in zip(best.tolist(), places))
        assert len(places[0]) == 7 < len(places[2])


def test_the_error_of_single_precision_is_within_its_bound():
    rng = np.random.default_rng(0)
    queries, table = rng.normal(size=(20, 300)), rng.normal(size=(400, 300))
    off = np.abs(queries.astype(np.float32) @ table.astype(np.float32).T - queries @ table.T).max(1)
    assert (off <= rounding_error(queries, longest_row(table))).all() and off.max() > 0
    assert longest_row(np.array([[3.0, 4.0], [np.nan, 1.0]])) == 5.0


def test_products_that_are_further_off_than_they_say_are_not_believed():
    rng = np.random.default_rng(0)
    table, queries = rng.normal(size=(300, 8)), rng.normal(size=(3, 8))

    def wrong(queries, rows, first):
        return (queries @ rows.T + 1).astype(np.float32), np.zeros(3)

    found = nearest(queries, [table], 5, multiply=[wrong])
    assert [numbers.tolist() for numbers, _ in found] == in_double(queries, table, 5)


def test_rows_that_are_no_numbers_are_never_found():
    table = np.array([[np.nan, 0.0], [1.0, 0.0], [2.0, 0.0]], np.float32)
    ((numbers, _),) = nearest(np.array([[1.0, 0.0]]), [table], 3)
    assert numbers.tolist() == [2, 1]


def test_fewer_rows_than_wanted():
    ((numbers, scores),) = nearest(np.ones((1, 2)), [np.eye(2)], 100)
    assert numbers.tolist() == [0, 1] and scores.tolist() == [1, 1]
    ((numbers, _),) = nearest(np.ones((1, 2)), [np.eye(2)[:1]], 100, exclude=[[0]])
    assert numbers.tolist() == []  # a collection of one image, and that is the pair's own


def test_ties_go_to_the_earlier():
    assert top_k(np.array([1.0, 2, 2, 1, 2, 0]), 4).tolist() == [1, 2, 4, 0]
    assert top_k(np.array([1.0, 1, 1]), 2).tolist() == [0, 1]


# ---- images


def test_overlap_is_the_jaccard_of_multisets():
    dog, cat, car = 0, 1, 5
    pairs = [np.array([dog, dog]), np.zeros(0, int)]
    images = [np.array(one, int) for one in ([dog, cat], [dog, dog], [car], [], [cat, dog, cat, dog])]
    objects = Objects.counted(pairs, images)
    np.testing.assert_allclose(objects.overlap(0, np.arange(5)), [1 / 3, 1, 0, 0, 1 / 2])
    np.testing.assert_allclose(objects.overlap(0, np.array([4, 1])), [1 / 2, 1])
    assert objects.overlap(1, np.arange(5)).tolist() == [0] * 5 and objects.without() == 1


def test_colours_and_edges_tell_images_apart():
    red, stripes = np.zeros((2, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    stripes[::4] = 255
    vectors = [colours_and_edges(one) for one in (red, stripes, stripes.swapaxes(0, 1), np.zeros_like(red))]
    assert vectors[0].shape == (16 * 11,)
    np.testing.assert_allclose([np.linalg.norm(v) for v in vectors], 1, rtol=1e-6)
    brighter = np.clip(red.astype(int) + 20, 0, 255).astype(np.uint8)
    assert colours_and_edges(brighter) @ vectors[0] > 0.9 > vectors[0] @ vectors[3]
    assert vectors[1] @ vectors[2] < 0.9
