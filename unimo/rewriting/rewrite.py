"""Phrase and word level negatives of a caption: nodes of its scene graph replaced by other entries of the corpus.

    word     one node                                    a red circle  ->  a blue circle
    phrase   a whole noun phrase, or two or three nodes  a red circle  ->  a small star
             or two nodes of the caption exchanged       a red circle on a blue box  ->  a blue circle on a red box

UNIMO section 3.2 and Fig. 3: objects, attributes, relations and their combinations are replaced at random from
vocabularies of the same type; exchanges, which keep the bag of words, are our addition. What may stand in place of a
node, so that the result is false of the image and hard to tell without it: unimo.rewriting.vocabulary.

Everything is a pure function of the graph, the vocabularies and a generator.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import numpy as np

from unimo.data.sample import NodeKind
from unimo.rewriting.grammar import Span, grammar
from unimo.rewriting.scene_graph import Node, SceneGraph
from unimo.rewriting.vocabulary import ARTICLE, Vocabularies, contexts, key_words

Level = Literal["word", "phrase", "sentence"]

# Raised whenever equal captions would be rewritten otherwise than before: by other rules of parsing or replacing, or
# another assets/caption_grammar.txt. Prepared files name it (unimo.rewriting.store).
GRAMMAR = 4

_MAX_NODES = 3  # changed at once
_EXCHANGED = 0.2  # fraction of the phrase level that may be exchanges
_ATTEMPTS = 6  # draws per rewrite wanted, then what was found must do


@dataclass(frozen=True)
class Change:
    """Characters `span` of the caption, which read `old`, become `new`. An article that changes is part of it."""

    kind: NodeKind
    span: Span
    old: str
    new: str


@dataclass(frozen=True)
class Rewrite:
    """kind: what was replaced, as "object" or "attribute+object". changes: in order, never overlapping."""

    level: Level
    kind: str
    changes: tuple[Change, ...]

    def apply(self, caption: str) -> str:
        """The rewritten caption; outside the recorded spans it is the caption itself."""
        for change in reversed(self.changes):
            caption = caption[: change.span[0]] + change.new + caption[change.span[1] :]
        return caption

    def spans(self) -> list[Span]:
        """The characters of the rewritten caption that are new."""
        found, longer = [], 0
        for change in self.changes:
            begin = change.span[0] + longer
            found.append((begin, begin + len(change.new)))
            longer = found[-1][1] - change.span[1]
        return found


def rewrites(
    graph: SceneGraph,
    image: Sequence[SceneGraph],
    vocabularies: Vocabularies,
    rng: np.random.Generator,
    *,
    words: int,
    phrases: int,
) -> list[Rewrite]:
    """At most `words` word level and `phrases` phrase level negatives of one caption, all different.

    image: the graphs of every caption of its image; none of their words is put in, nor any related to them, and
    none of them comes out. Fewer are returned, after a bounded number of draws, where the vocabularies hold no more;
    none for a caption without object.
    """
    if not graph.objects:
        return []
    mentions = vocabularies.mentions(tuple(image))
    taken = {" ".join(other.caption.lower().split()) for other in (*image, graph)}
    choices: dict[str, list[tuple[Node, list[str], list[float]]]] = {}
    strange: dict[str, list[tuple[Node, list[str], list[float]]]] = {}  # nodes for which nothing is ever seen there
    for node, around in contexts(graph).items():
        form = vocabularies.form_of(node, graph.caption)
        texts, numbers, weights = vocabularies.alternatives(node.kind, form, node.text)
        kept = np.flatnonzero(vocabularies.outside(numbers, mentions.words(node.kind, node.form)))
        if len(kept):
            weights, fits = vocabularies.natural(numbers[kept], weights[kept], around)
            chances = np.cumsum(weights)
            some = (choices if fits else strange).setdefault(node.kind, [])
            some.append((node, [texts[i] for i in kept], (chances / chances[-1]).tolist()))
    choices = choices or strange
    kinds = sorted(choices)
    exchanges = _exchanges(graph, image)
    if not choices and not exchanges:
        return []

    def draw() -> tuple[Node, str]:
        nodes = choices[kinds[rng.integers(len(kinds))]]  # kinds are equally likely, then nodes
        node, texts, chances = nodes[rng.integers(len(nodes))]
        return node, texts[min(bisect_right(chances, rng.random()), len(texts) - 1)]

    def accept(level: Level, changes: list[Change]) -> None:
        changes.sort(key=lambda change: change.span)
        kind = "+".join(sorted(change.kind for change in changes))
        rewrite = Rewrite(level, kind, tuple(changes))
        text = " ".join(rewrite.apply(graph.caption).lower().split())
        if text not in taken:
            taken.add(text)
            found[level].append(rewrite)

    found: dict[Level, list[Rewrite]] = {"word": [], "phrase": []}
    for k in rng.permutation(len(exchanges))[: math.ceil(_EXCHANGED * phrases)]:
        accept("phrase", exchanges[k])
    for _ in range(_ATTEMPTS * words):
        if len(found["word"]) == words or not choices:
            break
        node, text = draw()
        accept("word", [_change(graph.caption, node.kind, node.span, text)])
    for _ in range(_ATTEMPTS * phrases):
        if len(found["phrase"]) == phrases or not choices:
            break
        drawn = dict(draw() for _ in range(rng.integers(1, _MAX_NODES + 1)))
        if _tied(graph, drawn):
            continue
        changes = [_change(graph.caption, node.kind, node.span, text) for node, text in drawn.items()]
        if len(drawn) == 1:  # the whole noun phrase, if it is an object
            changes = _whole_phrase(graph, *drawn.popitem(), vocabularies, rng)
        spans = sorted(change.span for change in changes)
        if changes and all(end <= begin for (_, end), (begin, _) in pairwise(spans)):
            accept("phrase", changes)
    return found["word"] + found["phrase"]


def _tied(graph: SceneGraph, drawn: Iterable[Node]) -> bool:
    """Whether a verb is among nodes with its subject or object: each was chosen beside what the caption says of the
    other."""
    nodes = set(drawn)
    ends = [k for node in nodes if "+" in node.form for k in (node.head, node.tail)]
    return any(k is not None and graph.objects[k] in nodes for k in ends)


def _exchanges(graph: SceneGraph, image: Sequence[SceneGraph]) -> list[list[Change]]:
    """Attributes of two objects exchanged, and objects that a one-way relation ties; false if either is.

    No attribute goes to an object of which some caption of the image says it.
    """

    def head(of: SceneGraph, node: Node) -> str:
        return "" if node.head is None else key_words(of.objects[node.head].text)

    stated = {(head(other, node), node.text) for other in image for node in other.attributes}
    spans: list[tuple[NodeKind, Span, Span]] = []
    for one, two in combinations(graph.attributes, 2):
        heads = head(graph, one), head(graph, two)
        alike = one.text == two.text or any({one.text, two.text} <= group for group in grammar().alike)
        crossed = {(heads[0], two.text), (heads[1], one.text)}
        if (
            one.form
            and one.form == two.form
            and all(heads)
            and heads[0] != heads[1]
            and not alike
            and not crossed & stated
        ):
            spans.append(("attribute", one.span, two.span))
    for node in graph.relations:
        if node.text in grammar().one_way and node.head is not None and node.tail is not None:
            subject, target = graph.objects[node.head], graph.objects[node.tail]
            if subject.form == target.form and key_words(subject.text) != key_words(target.text):
                first, last = sorted((graph.phrases[node.head], graph.phrases[node.tail]))
                spans.append(("object", first, last))
    return [
        [_change(graph.caption, kind, here, _inside(graph.caption, there)) for here, there in ((a, b), (b, a))]
        for kind, a, b in spans
        if a[1] <= b[0]
    ]


def _inside(caption: str, span: Span) -> str:
    """The words of a span as they stand inside a sentence."""
    text = caption[slice(*span)]
    return text if caption[: span[0]].strip(" \"'") else text[0].lower() + text[1:]


def _whole_phrase(
    graph: SceneGraph, node: Node, text: str, vocabularies: Vocabularies, rng: np.random.Generator
) -> list[Change]:
    """An object with its attributes becomes another with those that the corpus gives it."""
    if node.kind != "object":
        return []
    form = vocabularies.form_of(node, graph.caption)
    numbered = any(node.form == "many" and a.form in ("number", "digits") for a in graph.attributes)
    known = sorted(vocabularies.phrases.get((form, text), Counter()).items())
    known = [(phrase, count) for phrase, count in known if not numbered or phrase.split()[0] in grammar().adjectives]
    if not known:
        return []
    chances = np.cumsum([count for _, count in known])
    phrase = known[int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))][0]
    span = graph.phrases[graph.objects.index(node)]
    return [_change(graph.caption, "object", span, phrase)]


def _change(caption: str, kind: NodeKind, span: Span, new: str) -> Change:
    """The change of a span to a text, with the article and the capital that English then wants."""
    begin, end = span
    article = ARTICLE.search(caption[:begin])
    if article and (wanted := _article(new)) != article[1].lower():
        begin = article.start(1)
        new = f"{wanted} {new}"
    old = caption[begin:end]
    if old[0].isupper() and (begin == 0 or not caption[:begin].strip(" \"'")):
        new = new[0].upper() + new[1:]
    return Change(kind, (begin, end), old, new)


def _article(text: str) -> str:
    word = text.lower()
    spoken_vowel = word[0] in "aeiou" and not word.startswith(("uni", "use", "usu", "eu", "one", "ut"))
    return "an" if spoken_vowel or word.startswith(("hour", "honest", "heir")) else "a"
