"""The words a corpus of captions has for objects, attributes and relations, and what may stand in place of each.

How UNIMO built the vocabularies of section 3.2 is not published. Here they are counted from the user's own captions. A
substitute is as frequent as what it replaces (or a model could tell a negative by its rare words) and preferably seen
with all that stands beside it (`contexts`; or a model could tell it by its odd English); and it is nothing that may be
true of the image as far as the corpus can tell:

- a word of any caption of the same image, whatever its ending (`Mentions`);
- what other captions say *instead* (`Alternations`): "person" and "guy" are found where another caption of the same
  image says "man" and this one does not, more often than elsewhere;
- a more general or more special word, where grammar knows it ("animal" for "dog"), or a vague one ("look");
- an attribute that does not exclude the old one: colours, sizes, numbers, ... exclude one another by grammar, other
  adjectives only where the corpus shows it; prepositions are replaced by their opposites alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from unimo.data.sample import NodeKind
from unimo.ragged import offsets_of
from unimo.rewriting.grammar import grammar, is_plural, stem, tokens
from unimo.rewriting.scene_graph import Node, SceneGraph

FREQUENCY_WIDTH = 1.0  # octaves by which the frequency of a substitute commonly differs
RELATED_LIFT = 1.5  # a word found in place of another so many times more often than by chance may mean the same
EXCLUSIVE_LIFT = 0.5  # an adjective found in place of another this seldom excludes it ...
_EXCLUSIVE_EVIDENCE = 5.0  # ... where this many times were to be expected by chance
_MIN_COUNT = 2  # a word seen once is often a slip of the pen
_UNSEEN = 0.05  # weight of what was never seen in one more of its contexts: "sip the lake", "a stuffed nineteen"
ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)


def word_stems(caption: str) -> frozenset[str]:
    """The words of a caption without endings, and expressions like "in front of"."""
    return frozenset(stem(token.text) for token in tokens(caption) if token.text[0].isalnum())


@lru_cache(maxsize=200_000)
def key_words(text: str) -> str:
    """The word that decides what a node's text means: the last of "police officer", all of "left of"."""
    return stem(text if text in grammar().opposites else text.split()[-1])


class Vocabularies:
    """The objects, attributes and relations of a corpus, how often each is used, and which mean the same.

    counts: (kind, form) -> Counter of texts; forms of objects are "one", "mass" (seldom with an article) and "many".
    phrases: (form, object) -> Counter of its noun phrases. mass: objects that seldom have an article.
    """

    def __init__(self, images: Iterable[Sequence[SceneGraph]]):
        """images: the graphs of the captions of each image."""
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.phrases: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        seen: dict[str, set[str]] = defaultdict(set)  # context -> texts found in it
        articles, bare = Counter[str](), Counter[str]()
        stems: dict[str, int] = {}
        mentioned: list[list[list[int]]] = []  # image -> caption -> numbers of the words of its nodes
        objects: list[tuple[Node, str]] = []  # with their phrases
        for graphs in images:
            mentioned.append([])
            for graph in graphs:
                for node, around in contexts(graph).items():
                    for context in around:
                        seen[context].add(node.text)
                mentioned[-1].append(
                    sorted({stems.setdefault(key_words(node.text), len(stems)) for node in graph.nodes})
                )
                for node, span in zip(graph.objects, graph.phrases):
                    objects.append((node, graph.caption[slice(*span)].lower()))
                    if node.form == "one":
                        before = graph.caption[: span[0]]
                        articles[node.text] += bool(ARTICLE.search(before))
                        determiner = grammar().tags.get(before.rstrip().rpartition(" ")[2].lower(), "")
                        bare[node.text] += not set(determiner) & set("AD")
                for node in graph.attributes + graph.relations:
                    self.counts[node.kind, node.form][node.text] += 1
        self.mass = frozenset(word for word in bare if articles[word] < 0.25 * (articles[word] + bare[word]))
        for node, phrase in objects:
            if node.form == "one" and is_plural(node.text):
                continue  # "a dogs": tagged wrongly, not to be put behind an article
            form = "mass" if node.form == "one" and node.text in self.mass else node.form
            self.counts["object", form][node.text] += 1
            if phrase != node.text.lower():
                self.phrases[form, node.text][phrase] += 1
        _keep_usual_kinds(self.counts)
        self.alternations = Alternations(mentioned, list(stems))
        texts = sorted(set().union(*self.counts.values()))
        self._number = {text: i for i, text in enumerate(texts)}
        self._keys: dict[str, int] = {}
        self._key = np.array([self._keys.setdefault(key_words(text), len(self._keys)) for text in texts], np.int64)
        self._seen = {
            context: np.array([self._number[text] for text in some if text in self._number], np.int64)
            for context, some in seen.items()
        }
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        caches = ("alternatives", "mentions", "_keys_of")  # no other process could take them
        return {name: value for name, value in vars(self).items() if name not in caches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.alternatives = lru_cache(maxsize=20_000)(self._alternatives)
        self.mentions = lru_cache(maxsize=8)(self._mentions)  # captions of one image come one after the other
        self._keys_of = lru_cache(maxsize=32)(self._find_keys)

    def form_of(self, node: Node, caption: str) -> str:
        """The form under which substitutes of a node are counted."""
        if node.kind == "object" and node.form == "one" and node.text in self.mass:
            return "one" if ARTICLE.search(caption[: node.span[0]]) else "mass"
        return node.form

    def _mentions(self, image: tuple[SceneGraph, ...]) -> Mentions:
        return Mentions(image, self.alternations)

    def outside(self, numbers: np.ndarray, words: frozenset[str]) -> np.ndarray:
        """Which of some texts, by their numbers, have a deciding word (`key_words`) that is not among `words`."""
        return ~self._keys_of(words)[self._key[numbers]]

    def _find_keys(self, words: frozenset[str]) -> np.ndarray:
        found = np.zeros(len(self._keys), dtype=bool)
        found[[self._keys[word] for word in words if word in self._keys]] = True
        return found

    def natural(self, numbers: np.ndarray, weights: np.ndarray, around: Sequence[str]) -> tuple[np.ndarray, bool]:
        """Weights of some texts, by frequency, so changed that those seen in all contexts have most of the whole, those
        seen in all but one `_UNSEEN` of what these have, and so on; within such a group they stand as before. And
        whether any was seen in any context, or nothing stands beside it."""
        seen = np.zeros(len(self._number), dtype=np.int32)
        for context in around:
            seen[self._seen.get(context, [])] += 1
        highest = seen[numbers].max()
        unseen = highest - seen[numbers]
        if unseen.any():
            weights = weights / np.bincount(unseen, weights)[unseen] * _UNSEEN**unseen
        return weights, bool(highest) or not around

    def _alternatives(self, kind: NodeKind, form: str, text: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Texts that may stand for another in any image, sorted, their numbers, and their weights by frequency."""
        counts = self.counts.get((kind, form), Counter())
        word = key_words(text)
        alike = self.alternations.related(word)
        if kind == "relation" and form in ("preposition", "place"):
            opposites = grammar().opposites.get(text, ())
            fitting = [(other, counts[other]) for other in opposites if counts[other]]
        elif kind == "attribute" and form:
            near = {text}.union(*(group for group in grammar().alike if text in group))
            fitting = [(other, n) for other, n in counts.items() if other not in near and key_words(other) not in alike]
        else:
            general = grammar().general.get(text.split()[-1], frozenset())
            fitting = [
                (other, count)
                for other, count in counts.items()
                if count >= _MIN_COUNT
                and form != "has"
                and key_words(other) != word
                and other not in grammar().vague
                and other.split()[-1] not in general
                and key_words(other) not in alike
                and (kind != "attribute" or self._may_describe(text, other))
            ]
        fitting.sort()
        here = max(counts[text], 1)
        frequency = np.array([count for _, count in fitting], dtype=np.float64)
        octaves = np.log2(frequency / here)
        # Zipf: half the frequency, twice the words. The factor `frequency` keeps rare words from prevailing.
        weights = np.round(frequency * np.exp(-0.5 * (octaves / FREQUENCY_WIDTH) ** 2), 9)
        kept = np.flatnonzero(weights)
        texts = tuple(fitting[k][0] for k in kept)
        return texts, np.array([self._number[other] for other in texts], np.int64), weights[kept]

    def _may_describe(self, word: str, other: str) -> bool:
        """Adjectives that grammar does not put in a group; a participle would too often be a verb tagged wrongly."""
        if other in grammar().adjectives or other.endswith("ing"):
            return False
        return self.alternations.excludes(key_words(word), key_words(other))


def _keep_usual_kinds(counts: dict[tuple[str, str], Counter[str]]) -> None:
    """Drops a text from the kinds it seldom is: "jump", mostly a verb, is no object to put in."""
    totals: Counter[str] = Counter()
    by_kind: Counter[tuple[str, str]] = Counter()
    for (kind, _), texts in counts.items():
        totals.update(texts)
        by_kind.update({(kind, text): count for text, count in texts.items()})
    for (kind, _), texts in counts.items():
        for text in [text for text in texts if 2 * by_kind[kind, text] < totals[text]]:
            del texts[text]


class Alternations:
    """Which of S words captions use where another caption of the same image uses another word."""

    def __init__(self, images: Sequence[Sequence[Sequence[int]]], words: Sequence[str]):
        """images: of every caption of every image its words, as sorted numbers into `words`."""
        captions = [row for image in images for row in image]
        self._words, self._number = words, {word: i for i, word in enumerate(words)}
        flat = np.array([word for row in captions for word in row], np.int64)
        used = _incidence(flat, [len(row) for row in captions], len(words))
        of_image = _incidence(np.arange(len(captions)), [len(image) for image in images], len(captions))
        missing = (of_image.T @ (of_image @ used).astype(bool).astype(np.int64)) - used  # other captions have them
        self._instead = (missing.T @ used).tocsr()  # (S, S): w is missing, v is used
        self._missing, self._used = (np.asarray(table.sum(axis=0)).ravel() for table in (missing, used))
        self._captions = max(len(captions), 1)
        found = self._instead.tocoo()
        w, v = found.row, found.col
        kept = (found.data >= _MIN_COUNT) & (found.data > RELATED_LIFT * self._expected(w, v))
        self._related: dict[str, set[str]] = defaultdict(set)
        for one, other in zip(w[kept], v[kept]):
            self._related[words[one]].add(words[other])

    def related(self, word: str) -> frozenset[str]:
        """Words that captions say where another caption of the same image says `word`: synonyms, more general words,
        other parts of the same thing. All as `key_words` gives them."""
        return frozenset(self._related.get(word, ()))

    def excludes(self, word: str, other: str) -> bool:
        """Whether the corpus shows that images of `word` are not those of `other`."""
        w, v = self._number.get(word), self._number.get(other)
        if w is None or v is None:
            return False
        expected = self._expected(w, v)
        return expected >= _EXCLUSIVE_EVIDENCE and self._instead[w, v] < EXCLUSIVE_LIFT * expected

    def _expected(self, w, v):
        """How often v would be used where w is missing, by chance."""
        return self._missing[w] * self._used[v] / self._captions


def _incidence(columns: np.ndarray, lengths: Sequence[int], size: int) -> csr_matrix:
    """(n, size) of ones at the columns of each row, whose lengths are given."""
    return csr_matrix((np.ones(len(columns), np.int64), columns, offsets_of(lengths)), (len(lengths), size))


def contexts(graph: SceneGraph) -> dict[Node, list[str]]:
    """What stands beside each node in its graph and restricts what it may be; of a text in its place, the corpus knows
    whether it was ever seen there.

    Objects: what governs them ("wear <object>", "man with <object>"), what they do, and attributes. Verbs: who does
    it, and to what. Attributes of no group: the object. Prepositions, and colours and the like, have none:
    what opposes them is fit wherever they are.
    """

    def word(k: int) -> str:
        return key_words(graph.objects[k].text)

    around: dict[Node, list[str]] = {node: [] for node in graph.nodes}
    for node in graph.relations:
        what, verb = stem(node.text), "+" in node.form
        if node.tail is not None and (node.form == "preposition" or node.form.endswith("+object")):
            around[graph.objects[node.tail]].append(f"{what} <object>")
            if verb:
                around[node].append(f"<relation> {word(node.tail)}")
            elif node.head is not None:
                around[graph.objects[node.tail]].append(f"{word(node.head)} {what} <object>")
        if node.head is not None:
            around[graph.objects[node.head]].append(f"<object> {what}")
            if verb:
                around[node].append(f"{word(node.head)} <relation>")
    for node in graph.attributes:
        if node.head is not None:
            around[graph.objects[node.head]].append(f"{node.form or node.text} <object>")
            if not node.form:
                around[node].append(f"<attribute> {word(node.head)}")
    return around


class Mentions:
    """The words that captions of one image mention, with those that may mean the same."""

    def __init__(self, image: Sequence[SceneGraph], alternations: Alternations):
        self._all = frozenset().union(*(word_stems(graph.caption) for graph in image))
        objects = {key_words(node.text) for graph in image for node in graph.objects}
        actions = {key_words(node.text) for graph in image for node in graph.relations if is_action(node)}
        self._objects = self._all.union(*map(alternations.related, objects))
        self._actions = self._all.union(*map(alternations.related, actions))

    def words(self, kind: NodeKind, form: str) -> frozenset[str]:
        """The words that a substitute of this kind and form must not be, as `key_words` gives them."""
        if kind == "object":
            return self._objects
        return self._actions if kind == "relation" and "+" in form else self._all

    def lack(self, node: Node) -> bool:
        """Whether no caption of the image mentions this node, nor an object or action that may mean the same."""
        return key_words(node.text) not in self.words(node.kind, node.form)


def is_action(node: Node) -> bool:
    """Whether a relation is a verb of some meaning."""
    return node.kind == "relation" and "+" in node.form and node.text not in grammar().vague
