"""The words a corpus of captions has for objects, attributes and relations, and what may stand in place of each.

How UNIMO built the vocabularies of section 3.2 is not told. Here they are counted from the user's own captions. A
substitute is as frequent as what it replaces (or a model could tell a negative by its rare words) and preferably seen
with all that stands beside it (`contexts`; or a model could tell it by its odd English); and it is nothing that may be
true of the image as far as the corpus can tell:

- a word of any caption of the same image, whatever its ending (`Told`);
- what other images' captions say *instead*: of "man", "person" and "guy" are found where another caption of the
  same image says "man" and this one does not, more often than elsewhere (`Vocabularies.related`);
- a more general or more special word, where grammar knows it ("animal" for "dog"), or a vague one ("look");
- an attribute that does not exclude the old one: colours, sizes, numbers, ... exclude one another by grammar, other
  adjectives only where the corpus shows it; prepositions are replaced by their opposites alone.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from unimo.data.sample import NodeKind
from unimo.rewriting.grammar import grammar, is_plural, stem, tokens
from unimo.rewriting.scene_graph import Node, SceneGraph

FREQUENCY_WIDTH = 1.0  # octaves by which the frequency of a substitute commonly differs
RELATED_LIFT = 1.5  # said in place of a word so many times more often than by chance: it may mean the same
EXCLUSIVE_LIFT = 0.5  # an adjective said in place of another this seldom excludes it ...
_EXCLUSIVE_EVIDENCE = 5.0  # ... where this many times were to be expected by chance
_LEAST_SEEN = 2  # a word seen once is often a slip of the pen
_UNSEEN = 0.05  # share of all that was never seen in one more of its contexts: "sip the lake", "a stuffed nineteen"
_NONE = np.zeros(0, np.int64)
ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)


def word_stems(caption: str) -> frozenset[str]:
    """What a caption says, without endings: words, and expressions like "in front of"."""
    return frozenset(stem(token.text) for token in tokens(caption) if token.text[0].isalnum())


@lru_cache(maxsize=200_000)
def key_words(text: str) -> str:
    """The word that decides what a node's text means: the last of "police officer", all of "left of"."""
    return stem(text if text in grammar().opposites else text.split()[-1])


class Vocabularies:
    """The objects, attributes and relations of a corpus, how often each is used, and which mean the same.

    counts: (kind, form) -> Counter of texts; forms of objects are "one", "mass" (seldom with an article) and "many".
    """

    def __init__(
        self,
        counts: dict[tuple[str, str], Counter[str]],
        phrases: dict[tuple[str, str], Counter[str]],
        seen: dict[str, set[str]],
        mass: frozenset[str],
        stems: Sequence[str],
        said: np.ndarray,
        missing: np.ndarray,
        captions: int,
        instead: tuple[np.ndarray, np.ndarray],
    ):
        """seen: context -> texts met in it. stems: S words. said, missing: (S,) captions that say a word; that do not
        though another of the same image does. instead: sorted numbers w * S + v with counts of "v is said where w is
        missing"."""
        self.counts, self.phrases, self.mass = counts, phrases, mass
        texts = sorted(set().union(*counts.values()))
        keys: dict[str, int] = {}
        self._number = {text: i for i, text in enumerate(texts)}
        self._key = np.array([keys.setdefault(key_words(text), len(keys)) for text in texts], np.int64)
        self._keys = keys
        self._seen = {
            context: np.array([self._number[text] for text in some if text in self._number], np.int64)
            for context, some in seen.items()
        }
        self._stem = {word: i for i, word in enumerate(stems)}
        self._said, self._missing, self._captions, self._instead = said, missing, captions, instead
        self.alternatives = lru_cache(maxsize=20_000)(self._alternatives)
        self.told = lru_cache(maxsize=8)(self._told)  # captions of one image come one after the other
        self._keys_of = lru_cache(maxsize=32)(self._find_keys)
        self._related: dict[str, frozenset[str]] = {}
        pairs, counted = instead
        w, v = np.divmod(pairs, max(len(stems), 1))
        expected = missing[w] * said[v] / max(captions, 1)
        kept = np.flatnonzero((counted >= _LEAST_SEEN) & (counted > RELATED_LIFT * expected))
        for some in np.split(kept, np.flatnonzero(np.diff(w[kept])) + 1) if len(kept) else []:
            self._related[stems[w[some[0]]]] = frozenset(stems[k] for k in v[some])

    @classmethod
    def learn(cls, images: Iterable[Sequence[SceneGraph]]) -> Vocabularies:
        """Counts the graphs of all captions, given image by image."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        phrases: dict[tuple[str, str], Counter[str]] = {}
        met: dict[str, set[str]] = defaultdict(set)
        with_article: Counter[str] = Counter()
        bare: Counter[str] = Counter()
        stems: dict[str, int] = {}
        said: list[list[list[int]]] = []  # image -> caption -> numbers of the words of its nodes
        seen: list[tuple[Node, str]] = []  # objects and their phrases
        for graphs in images:
            rows = []
            for graph in graphs:
                for node, around in contexts(graph).items():
                    for context in around:
                        met[context].add(node.text)
                rows.append(sorted({stems.setdefault(key_words(node.text), len(stems)) for node in graph.nodes}))
                for node, span in zip(graph.objects, graph.phrases):
                    seen.append((node, graph.caption[slice(*span)].lower()))
                    if node.form == "one":
                        before = graph.caption[: span[0]]
                        with_article[node.text] += bool(ARTICLE.search(before))
                        determiner = grammar().tags.get(before.rstrip().rpartition(" ")[2].lower(), "")
                        bare[node.text] += not set(determiner) & set("AD")
                for node in graph.attributes + graph.relations:
                    counts.setdefault((node.kind, node.form), Counter())[node.text] += 1
            said.append(rows)
        mass = frozenset(word for word in bare if with_article[word] < 0.25 * (with_article[word] + bare[word]))
        for node, phrase in seen:
            if node.form == "one" and is_plural(node.text):
                continue  # "a dogs": tagged wrongly, not to be put behind an article
            form = "mass" if node.form == "one" and node.text in mass else node.form
            counts.setdefault(("object", form), Counter())[node.text] += 1
            if phrase != node.text.lower():
                phrases.setdefault((form, node.text), Counter())[phrase] += 1
        _keep_usual_kinds(counts)
        return cls(counts, phrases, dict(met), mass, list(stems), *_substitutions(said, len(stems)))

    def related(self, word: str) -> frozenset[str]:
        """Words that captions say where another caption of the same image says `word`: synonyms, more general words,
        other parts of the same thing. All as `key_words` gives them."""
        return self._related.get(word, frozenset())

    def excludes(self, word: str, other: str) -> bool:
        """Whether the corpus shows that images of which `word` is said are not those of which `other` is."""
        w, v = self._stem.get(key_words(word)), self._stem.get(key_words(other))
        if w is None or v is None:
            return False
        expected = float(self._missing[w] * self._said[v]) / max(self._captions, 1)
        pairs, counted = self._instead
        number = w * len(self._stem) + v
        at = bisect_left(pairs, number)
        found = int(counted[at]) if at < len(pairs) and pairs[at] == number else 0
        return expected >= _EXCLUSIVE_EVIDENCE and found < EXCLUSIVE_LIFT * expected

    def form_of(self, node: Node, caption: str) -> str:
        """The form under which substitutes of a node are counted."""
        if node.kind == "object" and node.form == "one" and node.text in self.mass:
            return "one" if ARTICLE.search(caption[: node.span[0]]) else "mass"
        return node.form

    def _told(self, image: tuple[SceneGraph, ...]) -> Told:
        return Told(image, self)

    def not_told(self, numbers: np.ndarray, words: frozenset[str]) -> np.ndarray:
        """Which of some texts, by their numbers, have a deciding word (`key_words`) that is not among `words`."""
        return ~self._keys_of(words)[self._key[numbers]]

    def _find_keys(self, words: frozenset[str]) -> np.ndarray:
        told = np.zeros(len(self._keys), dtype=bool)
        told[[self._keys[word] for word in words if word in self._keys]] = True
        return told

    def natural(self, numbers: np.ndarray, weights: np.ndarray, around: Sequence[str]) -> tuple[np.ndarray, bool]:
        """Weights of some texts, by frequency, so changed that those seen in all contexts have most of the whole, those
        seen in all but one `_UNSEEN` of what these have, and so on; within such a group they stand as before. And
        whether any was seen in any context, or nothing stands beside it."""
        seen = np.zeros(len(self._number), dtype=np.int32)
        for context in around:
            seen[self._seen.get(context, _NONE)] += 1
        most = seen[numbers].max()
        unseen = most - seen[numbers]
        if unseen.any():
            weights = weights / np.bincount(unseen, weights)[unseen] * _UNSEEN**unseen
        return weights, bool(most) or not around

    def _alternatives(self, kind: NodeKind, form: str, text: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Texts that may stand for another in any image, sorted, their numbers, and their weights by frequency."""
        counts = self.counts.get((kind, form), Counter())
        word = key_words(text)
        alike = self.related(word)
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
                if count >= _LEAST_SEEN
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
        return other not in grammar().adjectives and not other.endswith("ing") and self.excludes(word, other)


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


def contexts(graph: SceneGraph) -> dict[Node, list[str]]:
    """What stands beside each node in its graph and restricts what it may be; of a text in its place, the corpus tells
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


class Told:
    """What all captions of one image say of it."""

    def __init__(self, image: Sequence[SceneGraph], vocabularies: Vocabularies):
        said = frozenset().union(*(word_stems(graph.caption) for graph in image))
        objects = {key_words(node.text) for graph in image for node in graph.objects}
        deeds = {key_words(node.text) for graph in image for node in graph.relations if is_deed(node)}
        self._said = said
        self._objects = said.union(*map(vocabularies.related, objects))
        self._deeds = said.union(*map(vocabularies.related, deeds))

    def nothing_of(self, kind: NodeKind, form: str, text: str) -> bool:
        """Whether no caption of the image says a word, nor an object or deed that may mean the same."""
        return key_words(text) not in self.words(kind, form)

    def words(self, kind: NodeKind, form: str) -> frozenset[str]:
        """The words that a node of this kind and form must not be, as `key_words` gives them."""
        deed = kind == "relation" and "+" in form
        return self._objects if kind == "object" else self._deeds if deed else self._said


def is_deed(node: Node) -> bool:
    """Whether a relation is a verb that says something."""
    return node.kind == "relation" and "+" in node.form and node.text not in grammar().vague


def _substitutions(said: list[list[list[int]]], size: int):
    """(said, missing, captions, (pairs, counts)) of `Vocabularies`, from the word numbers of each caption."""
    counts, missing, captions = np.zeros(size, np.int64), np.zeros(size, np.int64), 0
    pairs: list[np.ndarray] = [np.zeros(0, np.int64)]
    for rows in said:
        union = np.unique(np.concatenate([np.array(row, np.int64) for row in rows])) if rows else pairs[0]
        for row in rows:
            here = np.array(row, np.int64)
            absent = np.setdiff1d(union, here, assume_unique=True)
            captions += 1
            counts[here] += 1
            missing[absent] += 1
            pairs.append((absent[:, None] * size + here).ravel())
    return counts, missing, captions, np.unique(np.concatenate(pairs), return_counts=True)
