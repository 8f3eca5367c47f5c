"""A rewrite is the caption but for what it records, says nothing of the image's own captions, and is false of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unimo.rewriting.rewrite import Rewrite, rewrites
from unimo.rewriting.scene_graph import Parser, SceneGraph
from unimo.rewriting.vocabulary import Vocabularies, key_words, word_stems
from unimo.rng import generator
from unimo.synthetic.captions import captions
from unimo.synthetic.language import caption_is_true
from unimo.synthetic.world import scene

IMAGES = 300
KINDS = [
    ("dog", ["black", "brown"]), ("cat", ["white", "grey"]), ("horse", ["brown", "white"]), ("cow", ["black"]),
    ("car", ["red", "blue"]), ("boat", ["green", "yellow"]), ("ball", ["red", "yellow"]), ("apple", ["red", "green"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def images() -> list[list[SceneGraph]]:
    texts = [captions(scene(7, "train", i), random.Random(i), 2) for i in range(IMAGES)]
    parser = Parser.learn(caption for some in texts for caption in some)
    return [[parser.parse(caption) for caption in some] for some in texts]


@pytest.fixture(scope="module")
def vocabularies(images) -> Vocabularies:
    return Vocabularies(images)


@pytest.fixture(scope="module")
def made(images, vocabularies) -> list[tuple[int, SceneGraph, list[Rewrite]]]:
    return [
        (i, graph, rewrites(graph, some, vocabularies, generator(0, i, j), words=12, phrases=12))
        for i, some in enumerate(images)
        for j, graph in enumerate(some)
    ]


def learnt(texts: list[list[str]]) -> tuple[list[list[SceneGraph]], Vocabularies]:
    parser = Parser.learn(caption for some in texts for caption in some)
    graphs = [[parser.parse(caption) for caption in some] for some in texts]
    return graphs, Vocabularies(graphs)


def one_word_negatives(caption: str, texts: list[list[str]], n: int = 30, others: tuple[str, ...] = ()) -> set[str]:
    graphs, vocabularies = learnt([*texts, [caption, *others]])
    found = rewrites(graphs[-1][0], graphs[-1], vocabularies, generator(3), words=n, phrases=0)
    return {rewrite.apply(caption) for rewrite in found}


def test_a_rewrite_differs_exactly_in_its_recorded_spans(made):
    for _, graph, found in made:
        for rewrite in found:
            caption, at, rest = graph.caption, 0, rewrite.apply(graph.caption)
            for change in rewrite.changes:
                assert caption[slice(*change.span)] == change.old != change.new
                between = caption[at : change.span[0]]
                assert rest.startswith(between + change.new)
                rest, at = rest[len(between + change.new) :], change.span[1]
            assert rest == caption[at:]
            assert rewrite.level == ("word" if len(rewrite.changes) == 1 and rewrite.level != "phrase" else "phrase")


def test_levels_and_kinds(made):
    kinds = Counter((rewrite.level, rewrite.kind) for _, _, found in made for rewrite in found)
    assert {("word", "object"), ("word", "attribute"), ("word", "relation")} <= set(kinds)
    assert any("+" in kind for level, kind in kinds if level == "phrase")
    assert not any("+" in kind for level, kind in kinds if level == "word")


def test_no_rewrite_is_a_caption_of_its_image_nor_comes_twice(made, images):
    for i, graph, found in made:
        texts = [rewrite.apply(graph.caption) for rewrite in found]
        assert len(set(texts)) == len(texts)
        assert not {other.caption for other in images[i]} & set(texts)


def test_no_word_of_the_images_captions_is_put_in(made, images):
    for i, _, found in made:
        mentioned = frozenset().union(*(word_stems(graph.caption) for graph in images[i]))
        for rewrite in found:
            if rewrite.level == "word":
                assert not {key_words(change.new) for change in rewrite.changes} & mentioned


def test_rewrites_are_false_of_their_scene(made):
    """The issue asks for 95 %; what stays true are words for things that no caption of the image mentions."""
    texts = [(i, rewrite.level, rewrite.apply(graph.caption)) for i, graph, found in made for rewrite in found]
    true = Counter(level for i, level, text in texts if caption_is_true(text, scene(7, "train", i)))
    total = Counter(level for _, level, _ in texts)
    print({level: f"{1 - true[level] / total[level]:.4f} of {total[level]} are false" for level in total})
    assert all(true[level] < 0.02 * total[level] > 100 for level in ("word", "phrase"))


def test_exchanges_keep_the_words_and_change_who_has_what():
    captions_of_one = ["A red dog on a blue car .", "a dog outside ."]
    graphs, vocabularies = learnt(
        [[f"a {c} {noun} on a {c} bed ."] for noun, cs in KINDS for c in cs] + [captions_of_one]
    )
    found = rewrites(graphs[-1][0], graphs[-1], vocabularies, generator(0), words=0, phrases=20)
    texts = {rewrite.apply(captions_of_one[0]) for rewrite in found}
    assert {"A blue dog on a red car .", "A blue car on a red dog ."} <= texts
    both = [graphs[-1][0], Parser.learn([]).parse("a blue dog .")]  # now either colour may be the dog's
    found = rewrites(graphs[-1][0], both, vocabularies, generator(0), words=0, phrases=20)
    assert "A blue dog on a red car ." not in {rewrite.apply(captions_of_one[0]) for rewrite in found}


def test_equal_seeds_give_equal_rewrites(images, vocabularies):
    graph = images[0][0]

    def draw(seed):
        return rewrites(graph, images[0], vocabularies, generator(seed), words=10, phrases=10)

    assert draw(1) == draw(1) != draw(2)
    assert rewrites(graph, images[0], Vocabularies(images), generator(1), words=10, phrases=10) == draw(1)


def test_words_found_instead_are_not_negatives():
    # one caption of every dog has "hound", so captions say "hound" where another says "dog"
    texts = []
    for i in range(40):
        noun, colours = KINDS[i % len(KINDS)]
        colour = colours[i % len(colours)]
        other = "hound" if noun == "dog" else noun
        texts.append([f"a {colour} {noun} is on the grass .", f"there is a {colour} {other} ."])
    _, vocabularies = learnt(texts)
    assert key_words("hound") in vocabularies.alternations.related(key_words("dog"))
    assert key_words("cat") not in vocabularies.alternations.related(key_words("dog"))
    found = one_word_negatives("a black dog is on the grass .", texts)
    assert "a black cat is on the grass ." in found
    assert not any("hound" in text for text in found)


def test_more_general_words_are_not_negatives():
    texts = [[f"a {noun} on the grass ."] for noun in ("girl", "person", "child", "dog", "cow", "animal")] * 20
    found = one_word_negatives("a girl on the grass .", texts)
    assert "a dog on the grass ." in found and not {"a person on the grass .", "a child on the grass ."} & found
    found = one_word_negatives("a dog on the grass .", texts)
    assert "a person on the grass ." in found and "a animal on the grass ." not in found
    assert "an animal on the grass ." not in found
    assert "a girl on the grass ." not in one_word_negatives("a person on the grass .", texts)


def test_articles_and_number_agree():
    texts = [[f"a {colour} {noun} is on the grass ."] for noun, colours in KINDS for colour in colours] * 2
    texts += [[f"two {colour} {noun}s are on the grass ."] for noun, colours in KINDS for colour in colours] * 2
    texts += [["an orange cat is on the grass ."], ["an old cow is here ."], ["a young cow is here ."]] * 2
    found = one_word_negatives("A horse is on the grass .", texts)
    assert "An apple is on the grass ." in found and "A apple is on the grass ." not in found
    assert not any("cats" in text or "two" in text for text in found)
    found = one_word_negatives("an old cow is here .", texts)
    assert "a young cow is here ." in found
    found = one_word_negatives("two red balls are on the grass .", texts)
    assert "two red cats are on the grass ." in found and "two red cat are on the grass ." not in found


def test_substitutes_are_as_frequent_as_what_they_replace():
    rng = np.random.default_rng(0)
    nouns = [f"noun{c}{d}a" for c in "bcdfghjklm" for d in "npqrstvwxz"]
    chances = 1 / np.arange(1, len(nouns) + 1)  # Zipf
    drawn = rng.choice(len(nouns), 4000, p=chances / chances.sum())
    graphs, vocabularies = learnt([[f"a {nouns[k]} is on the table ."] for k in drawn])
    counts = vocabularies.counts["object", "one"]
    octaves = []
    for i in range(0, 4000, 3):
        for rewrite in rewrites(graphs[i][0], graphs[i], vocabularies, generator(i), words=1, phrases=0):
            (change,) = rewrite.changes
            if 8 <= counts[change.old] <= 200 and change.new in counts:  # with rarer and commoner words to choose from
                octaves.append(np.log2(counts[change.new] / counts[change.old]))
    assert len(octaves) > 300
    print(f"octaves between substitute and substituted: mean {np.mean(octaves):.2f}, spread {np.std(octaves):.2f}")
    assert abs(np.mean(octaves)) < 0.5 and np.std(octaves) < 1.5


EATEN, WORN = ("apple", "cake", "pear", "bread"), ("hat", "coat", "scarf", "shirt")
DONE = [("eats", EATEN), ("wears", WORN)]
HABITS = [[f"a {who} {deed} the {thing} ."] for who in ("girl", "man") for deed, things in DONE for thing in things] * 3


def test_substitutes_were_seen_with_what_stands_beside_them():
    graphs, vocabularies = learnt([*HABITS, ["a girl eats the apple ."]])
    things = Counter()
    for i in range(300):
        found = rewrites(graphs[-1][0], graphs[-1], vocabularies, generator(i), words=1, phrases=0)
        things.update(rewrite.changes[0].new for rewrite in found if rewrite.changes[0].old == "apple")
    assert sum(things[thing] for thing in EATEN) > 10 * sum(things[thing] for thing in WORN) > 0


def test_where_nothing_was_ever_seen_something_strange_is_better_than_nothing():
    texts = [["dogs bark ."], ["cats sleep ."], ["birds sing ."]] * 3
    graphs, vocabularies = learnt([*texts, ["dogs bark ."]])
    assert rewrites(graphs[-1][0], graphs[-1], vocabularies, generator(0), words=10, phrases=0)


def test_a_verb_is_not_replaced_together_with_its_subject_or_object():
    graphs, vocabularies = learnt(HABITS)
    several = 0
    for i, (graph,) in enumerate(graphs):
        for rewrite in rewrites(graph, [graph], vocabularies, generator(i), words=0, phrases=20):
            several += len(rewrite.changes) > 1
            assert len(rewrite.changes) == 1 or "relation" not in rewrite.kind
    assert several > 10


def test_substitutes_are_those_that_no_caption_mentions(images, vocabularies):
    mentioned = 0
    for some in images[:60]:
        mentions = vocabularies.mentions(tuple(some))
        for node in some[0].nodes:
            form = vocabularies.form_of(node, some[0].caption)
            texts, numbers, _ = vocabularies.alternatives(node.kind, form, node.text)
            plain = [mentions.lack(replace(node, text=text)) for text in texts]
            assert vocabularies.outside(numbers, mentions.words(node.kind, node.form)).tolist() == plain
            mentioned += not all(plain)
    assert mentioned > 20


def test_prepositions_become_their_opposites_alone(made):
    for _, graph, found in made:
        forms = {node.span: node for node in graph.relations}
        for rewrite in found:
            for change in rewrite.changes:
                if change.kind == "relation" and forms[change.span].text == "left of":
                    assert change.new == "right of"


@pytest.mark.parametrize("caption", ["", "...", "running", "漢字"])
def test_a_caption_without_object_has_no_rewrites(caption, vocabularies):
    graph = Parser.learn([]).parse(caption)
    if not graph.objects:
        assert rewrites(graph, [graph], vocabularies, generator(0), words=5, phrases=5) == []
    other = Parser.learn([]).parse("a red dog in the grass .")  # nor has one without anything to put in
    assert rewrites(other, [other], Vocabularies([]), generator(0), words=5, phrases=5) == []
