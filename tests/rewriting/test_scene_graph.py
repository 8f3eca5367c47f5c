"""The parser finds every node of `scenes` captions, and most of those annotated by hand in captions of photographs."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from unimo.corpus.corpus import open_corpus
from unimo.rewriting.grammar import is_plural, stem, tokens
from unimo.rewriting.scene_graph import Parser, SceneGraph
from unimo.synthetic.captions import captions
from unimo.synthetic.language import NUMBERS, PLACE_WORDS, RELATION_WORDS, SHAPE_WORDS, SIZE_WORDS, plural
from unimo.synthetic.world import COLOURS, scene

PHOTOGRAPHS = [
    "A little girl in a pink dress climbs the stairs .",
    "Two black dogs are running on the snow .",
    "A man wearing a red hat rides a bike down the street .",
    "Two dogs run through the grass .",
    "A girl runs along the beach .",
    "The dog runs on a red carpet .",
    "A boy climbs a tree .",
    "Two girls climb the stairs .",
    "A black dog and a white dog run on the snow .",
    "A woman rides a white horse .",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [caption for i in range(300) for caption in captions(scene(5, "train", i), random.Random(i), 2)]


@pytest.fixture(scope="module")
def parser(texts) -> Parser:
    return Parser.learn(texts)


def truth(caption: str) -> dict[str, list[tuple[int, int]]]:
    """Spans of the nodes of a `scenes` caption, from the tables its words come from."""
    nouns = {word for words in SHAPE_WORDS.values() for word in words}
    places = [phrase for words in (*PLACE_WORDS.values(), *RELATION_WORDS.values()) for phrase in words]
    adjectives = [*COLOURS, *(word for words in SIZE_WORDS.values() for word in words), *NUMBERS[2:]]
    listed = {
        "relation": places,
        "object": [*nouns, *map(plural, nouns)],
        "attribute": adjectives,
    }
    found: dict[str, list[tuple[int, int]]] = {}
    for kind, words in listed.items():
        either = "|".join(sorted(words, key=len, reverse=True))
        found[kind] = [match.span() for match in re.finditer(rf"\b(?:{either})\b", caption)]
    return found


def spans(graph: SceneGraph) -> dict[str, list[tuple[int, int]]]:
    return {
        "object": [node.span for node in graph.objects],
        "attribute": [node.span for node in graph.attributes],
        "relation": [node.span for node in graph.relations],
    }


def test_scenes_captions_are_parsed_exactly(texts, parser):
    wrong = [caption for caption in texts if spans(parser.parse(caption)) != truth(caption)]
    assert not wrong, f"{len(wrong)} of {len(texts)}, as: {wrong[0]}"


def test_attributes_belong_to_their_objects(parser):
    graph = parser.parse("two small red circles are left of a blue star")
    assert [(graph.objects[a.head].text, a.text, a.form) for a in graph.attributes if a.head is not None] == [
        ("circles", "two", "number"),
        ("circles", "small", "size"),
        ("circles", "red", "colour"),
        ("star", "blue", "colour"),
    ]
    (relation,) = graph.relations
    assert (relation.text, relation.head, relation.tail, relation.form) == ("left of", 0, 1, "preposition")
    assert [node.form for node in graph.objects] == ["many", "one"]
    assert [graph.caption[slice(*phrase)] for phrase in graph.phrases] == ["two small red circles", "blue star"]


@pytest.mark.parametrize(
    "caption, subject, target",
    [
        ("left of a blue star are two small red circles", "circles", "star"),
        ("there is a ring, and above the ring is a green heart", "heart", "ring"),
        ("a red circle is below a blue star", "circle", "star"),
        ("there is a red circle under a blue star; a ring is big", "circle", "star"),
        ("over a red circle", None, "circle"),
    ],
)
def test_who_is_where_whatever_comes_first(parser, caption, subject, target):
    graph = parser.parse(caption)
    (relation,) = (node for node in graph.relations if node.form == "preposition")
    assert relation.tail is not None and graph.objects[relation.tail].text == target
    assert (None if relation.head is None else graph.objects[relation.head].text) == subject


@pytest.mark.parametrize(
    "caption, subjects",
    [
        ("a ring is left of a star, and a circle is right of the ring", ["ring", "circle"]),
        ("a ring is left of a star; a circle is above them", ["ring", "circle"]),
        ("a ring is left of a star and a circle", ["ring"]),
        ("a ring is left of a star, and on the right is a circle", ["ring", "circle"]),
        ("in the middle is a ring; a star is at the top", ["ring", "star"]),
    ],
)
def test_a_clause_has_its_own_subject(parser, caption, subjects):
    graph = parser.parse(caption)
    assert [graph.objects[node.head].text for node in graph.relations if node.head is not None] == subjects


def test_the_class_of_a_word_is_learnt_from_its_use():
    # "squint" and "blorp" are in no list; what stands around them tells the verb from the noun
    made_up = ["a blorp squints at the dog .", "two blorps squint .", "a man with a blorp .", "a dog squints ."] * 3
    parser = Parser.learn(PHOTOGRAPHS * 3 + made_up)
    graph = parser.parse("A blorp squints at a red horse .")
    assert [node.text for node in graph.objects] == ["blorp", "horse"]
    assert [node.text for node in graph.relations] == ["squints", "at"]


def test_spans_are_those_of_the_caption():
    parser = Parser.learn(PHOTOGRAPHS)
    for caption in PHOTOGRAPHS:
        graph = parser.parse(caption)
        assert graph.objects
        assert all(caption[slice(*node.span)].lower() == node.text for node in graph.nodes)


def test_equal_captions_teach_an_equal_parser():
    one, other = Parser.learn(PHOTOGRAPHS), Parser.learn(list(PHOTOGRAPHS))
    assert np.array_equal(one._emissions, other._emissions)


@pytest.mark.parametrize(
    "caption", ["", "   ", "...", "running", "\x00", "ü ß 漢字", "a " * 300, "1 2 3", "the the the"]
)
def test_odd_captions_are_parsed_to_something(parser, caption):
    graph = parser.parse(caption)
    assert all(0 <= begin < end <= len(caption) for node in graph.nodes for begin, end in [node.span])


def test_an_empty_corpus_teaches_what_is_known_beforehand():
    graph = Parser.learn([]).parse("a red dog in the snow")
    assert [node.text for node in graph.objects] == ["dog", "snow"]


def test_expressions_are_one_word():
    assert [token.text for token in tokens("A dog in front of two men")] == ["a", "dog", "in front of", "two", "men"]


@pytest.mark.parametrize("words", ["dog dogs", "run runs running", "child children", "party parties", "woman women"])
def test_forms_of_a_word_share_a_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_plurals():
    assert all(map(is_plural, ["dogs", "people", "boxes"])) and not any(map(is_plural, ["grass", "bus", "tennis"]))


def test_photographs_against_annotations_by_hand(shared, tmp_path):
    """60 captions of Flickr8k's training part, annotated by hand: the words that are nodes, as places among the words.

    "either" are nouns that stand before their noun ("tennis player") and other words that may be counted or not.
    """
    corpus = open_corpus(
        "pairs",
        sorted((shared / "data" / "flickr8k").glob("train-*.tar")),
        verify="header",
        index_dir=tmp_path,
    )
    item = {key: i for i, key in enumerate(corpus.keys)}
    assert corpus.caption_offsets is not None
    counts = np.diff(corpus.caption_offsets)
    parser = Parser.learn(corpus.text(i, j) for i in range(0, len(corpus), 3) for j in range(counts[i]))
    scores = {kind: [0, 0, 0] for kind in ("objects", "attributes", "relations")}  # right, found, annotated
    annotations = json.loads(Path(__file__).with_name("scene_graph_annotations.json").read_text())
    for annotation in annotations:
        key, _, j = annotation["caption"].partition("#")
        caption = corpus.text(item[key], int(j))
        graph = parser.parse(caption)
        words = [match.span() for match in re.finditer(r"\S+", caption)]
        for kind, score in scores.items():
            ends = [node.span[1] - 1 if kind == "objects" else node.span[0] for node in getattr(graph, kind)]
            found = {w for w, (begin, end) in enumerate(words) for at in ends if begin <= at < end}
            found -= set(annotation["either"])
            score[0] += len(found & set(annotation[kind]))
            score[1] += len(found)
            score[2] += len(annotation[kind])
    print({kind: f"precision {r / f:.3f} ({f}), recall {r / m:.3f} ({m})" for kind, (r, f, m) in scores.items()})
    assert len(annotations) == 60
    for right, found, annotated in scores.values():
        assert right / found > 0.85 and right / annotated > 0.85
