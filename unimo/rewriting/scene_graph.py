"""A caption as a scene graph: objects, their attributes, and the relations between them, each with its span.

    a little girl in a pink dress climbs the stairs
      ------ ----    ---- ----- ------     ------     girl(little) · dress(pink) · stairs
                                                      girl -in-> dress · girl -climbs-> stairs

UNIMO rewrites the nodes of such a graph (section 3.2 and Fig. 3); the parser it cites, like the maintained ones, needs
a trained model to be fetched. This one needs none and no particular domain: English function words and a hand-written
table of which class of word follows which (assets/caption_grammar.txt) are known, and the classes of all other words
are learnt from the user's own captions by expectation maximisation of a hidden Markov model whose transitions stay
fixed (Merialdo 1994, "Tagging English text with a probabilistic model").
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NamedTuple

import numpy as np

from unimo.data.sample import NodeKind

Span = tuple[int, int]  # [begin, end) in characters of the caption

TAGS = "ADMJNLVBGXPRCOW."
_BEGIN = len(TAGS)  # row of the table for the beginning; the same column is the end
_WORD = re.compile(r"[^\W_]+(?:['’\-/][^\W_]+)*|'s\b|[^\w\s]")
_PLACE = re.compile(r"(in|on|at|to) the (?!same)")  # "in the middle": a relation without an object
_NEGLIGIBLE = 0.01  # weight of a succession the grammar does not name
_PSEUDO_COUNT = 0.5  # how many sightings the shape of a word is worth beside how it is used
_ROUNDS = 6
_LEARNT_FROM = 50_000  # captions; more of them would not change a tag


class Token(NamedTuple):
    text: str  # lower case; several words where they act as one: "in front of"
    span: Span


@dataclass(frozen=True)
class Node:
    """One object, attribute or relation.

    span: its characters. form: what a substitute must share with it: objects "one", "many"; attributes their group
    ("colour", "number", ...) or ""; relations "preposition", or the verb's "s", "", "ing", "ed" followed by
    "+object", "+preposition" or "+none". head: the object an attribute belongs to; the subject of a relation. tail: the
    object of a relation. Both are indices into `SceneGraph.objects`, None where none is told.
    """

    kind: NodeKind
    text: str
    span: Span
    form: str = ""
    head: int | None = None
    tail: int | None = None


@dataclass(frozen=True)
class SceneGraph:
    """phrases: for each object the span from its first attribute to itself ("little girl")."""

    caption: str
    objects: tuple[Node, ...]
    attributes: tuple[Node, ...]
    relations: tuple[Node, ...]
    phrases: tuple[Span, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(sorted(self.objects + self.attributes + self.relations, key=lambda node: node.span))


@dataclass(frozen=True)
class Grammar:
    """What is known before any caption is read: see assets/caption_grammar.txt."""

    tags: dict[str, str]  # word -> the tags it may have
    follow: np.ndarray  # (K + 1, K + 1) probabilities; the last row is the beginning, the last column the end
    plurals: frozenset[str]
    adjectives: dict[str, str]  # word -> group
    alike: tuple[frozenset[str], ...]
    opposites: dict[str, tuple[str, ...]]
    one_way: frozenset[str]  # relations of "A r B" and "B r A" of which at most one is true
    vague: frozenset[str]
    general: dict[str, frozenset[str]]  # object -> more general and more special words: may be true of the same
    phrases: dict[str, list[tuple[str, ...]]]  # first word -> the expressions it begins, longest first


@functools.cache
def grammar() -> Grammar:
    """The shipped grammar, read once per process."""
    sections: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in (resources.files("unimo") / "assets" / "caption_grammar.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif line and not line.startswith("#"):
            sections[name].append(line)
    tags: dict[str, str] = {}
    for tag, words in _rows(sections["tags"]):
        for word in words:
            tags[word] = tags.get(word, "") + tag * (tag not in tags.get(word, ""))
    groups = _rows(sections["adjectives"])
    adjectives = {word: group for group, words in reversed(groups) for word in words}
    opposites = {word.replace("_", " "): tuple(others) for word, others in _rows(sections["opposites"])}
    follow = np.full((len(TAGS) + 1, len(TAGS) + 1), _NEGLIGIBLE)
    states = TAGS + "^"
    for line in sections["follow"]:
        tag, _, listed = line.partition(": ")
        pairs = listed.split()
        for other, weight in zip(pairs[::2], pairs[1::2]):
            follow[states.index(tag), (TAGS + "$").index(other)] = float(weight)
    general: dict[str, frozenset[str]] = defaultdict(frozenset)
    for line in sections["general"]:
        names, things = (frozenset(part.split()) for part in line.split(": "))
        for thing in things:
            general[thing] |= names
        for name in names:  # "a person" may well be a girl
            general[name] |= things | names
    phrases: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for expression in sorted({*tags, *opposites}, key=len, reverse=True):
        parts = tuple(expression.split())
        if len(parts) > 1:
            phrases[parts[0]].append(parts)
    return Grammar(
        tags=tags,
        follow=follow / follow.sum(axis=1, keepdims=True),
        plurals=frozenset(word for line in sections["plurals"] for word in line.split()),
        adjectives=adjectives,
        alike=tuple(frozenset(line.split()) for line in sections["alike"]),
        opposites=opposites,
        one_way=frozenset(word.replace("_", " ") for line in sections["one_way"] for word in line.split()),
        vague=frozenset(word for line in sections["vague"] for word in line.split()),
        general=dict(general),
        phrases=dict(phrases),
    )


def _rows(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    split = (line.partition(": ") for line in lines)
    return [(name, [word.replace("_", " ") for word in words.split()]) for name, _, words in split]


def tokens(caption: str) -> list[Token]:
    """Words, marks of punctuation, and the expressions that act as one word."""
    known = grammar().phrases
    words = [Token(match.group().lower().replace("’", "'"), match.span()) for match in _WORD.finditer(caption)]
    found: list[Token] = []
    i = 0
    while i < len(words):
        size = 1
        for expression in known.get(words[i].text, ()):
            if expression == tuple(word.text for word in words[i : i + len(expression)]):
                size = len(expression)
                break
        text = " ".join(word.text for word in words[i : i + size])
        found.append(Token(text, (words[i].span[0], words[i + size - 1].span[1])))
        i += size
    return found


def is_plural(word: str) -> bool:
    """Whether a noun is plural by its shape."""
    return word in grammar().plurals or (word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")))


def stem(word: str) -> str:
    """A word without its ending, the same for "dog" and "dogs", "run", "runs" and "running". Rough: only for telling
    that two words may be one."""
    irregular = {"men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot"}
    word = irregular.get(word, word)
    for ending, least in (("ies", 3), ("ing", 5), ("ied", 4), ("ers", 6), ("er", 5), ("es", 4), ("ed", 4), ("s", 3)):
        if word.endswith(ending) and len(word) > least and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]  # running -> runn -> run
    return word[:-1] if len(word) > 3 and word[-1] in "eiy" else word


def _possible(word: str) -> dict[str, float]:
    """The tags a word may have by its shape, with weights."""
    known = grammar()
    if word in known.tags:
        return dict.fromkeys(known.tags[word], 1.0)
    if not word[0].isalnum():
        return {".": 1.0}
    if word in known.adjectives:
        return {"J": 0.9, "N": 0.1}
    if word[0].isdigit():
        return {"M": 0.5, "N": 0.3, "J": 0.2}
    if word.endswith("ing") and len(word) > 4:
        return {"G": 0.7, "J": 0.12, "N": 0.18}
    if word.endswith("ly") and len(word) > 4:
        return {"R": 0.8, "J": 0.1, "N": 0.1}
    if word.endswith("ed") and len(word) > 3:
        return {"G": 0.55, "J": 0.4, "N": 0.05}
    if is_plural(word):
        return {"L": 0.6, "V": 0.38, "N": 0.02}
    if word.endswith(("ful", "ous", "ish", "less", "able", "y")) and len(word) > 4:
        return {"N": 0.5, "J": 0.45, "B": 0.05}
    return {"N": 0.6, "J": 0.2, "B": 0.17, "R": 0.03}


class Parser:
    """Tags the words of captions and reads the graph off the tags."""

    def __init__(self, words: Sequence[str], emissions: np.ndarray):
        """words: those that were learnt. emissions: (words, K) P(word | tag), up to a factor per tag."""
        self._row = {word: i for i, word in enumerate(words)}
        self._emissions = emissions
        self._rare = np.maximum(emissions.sum(axis=0), 1e-12) * 1e-3  # what a word never seen has of each tag
        follow = grammar().follow
        self._log_follow, self._follow = np.log(follow), follow

    @classmethod
    def learn(cls, captions: Iterable[str]) -> Parser:
        """Learns the classes of words from captions. Equal captions give an equal parser."""
        sentences: list[list[str]] = []
        for caption in captions:
            found = [token.text for token in tokens(caption)]
            if found:
                sentences.append(found)
            if len(sentences) == _LEARNT_FROM:
                break
        counts = Counter(word for sentence in sentences for word in sentence)
        words = sorted(counts)
        shape = np.stack([_shape(word) for word in words]) if words else np.zeros((0, len(TAGS)))
        prior = shape * _PSEUDO_COUNT
        expected = shape * np.array([counts[word] for word in words]).reshape(-1, 1)
        row = {word: i for i, word in enumerate(words)}
        batches: dict[int, list[list[int]]] = defaultdict(list)
        for sentence in sentences:
            batches[len(sentence)].append([row[word] for word in sentence])
        arrays = [np.array(batches[length]) for length in sorted(batches)]
        for _ in range(_ROUNDS):
            emissions = expected + prior
            parser = cls(words, emissions / np.maximum(emissions.sum(axis=0), 1e-12))
            expected = np.zeros_like(expected)
            for ids in arrays:
                for some in np.array_split(ids, -(-len(ids) // 2048)):
                    posterior = parser._posterior(parser._emissions[some])
                    np.add.at(expected, some.ravel(), posterior.reshape(-1, len(TAGS)))
        emissions = expected + prior
        return cls(words, np.round(emissions / np.maximum(emissions.sum(axis=0), 1e-12), 12))

    def tag(self, words: Sequence[str]) -> str:
        """The most probable tags, one letter of TAGS per word (Viterbi)."""
        if not words:
            return ""
        with np.errstate(divide="ignore"):
            seen = np.log(np.stack([self._emission(word) for word in words]))
        score = self._log_follow[_BEGIN, :-1] + seen[0]
        back = np.zeros((len(words), len(TAGS)), dtype=np.int64)
        for t in range(1, len(words)):
            paths = score[:, None] + self._log_follow[:-1, :-1]
            back[t] = paths.argmax(axis=0)
            score = paths.max(axis=0) + seen[t]
        state = int((score + self._log_follow[:-1, -1]).argmax())
        states = [state]
        for t in range(len(words) - 1, 0, -1):
            state = int(back[t, state])
            states.append(state)
        return "".join(TAGS[state] for state in reversed(states))

    def parse(self, caption: str) -> SceneGraph:
        """The graph of one caption; empty where the caption names no object."""
        found = tokens(caption)
        return _graph(caption, found, self.tag([token.text for token in found]))

    def _emission(self, word: str) -> np.ndarray:
        i = self._row.get(word)
        return self._emissions[i] if i is not None else _shape(word) * self._rare

    def _posterior(self, seen: np.ndarray) -> np.ndarray:
        """(S, T, K) P(tag | sentence), by the forward-backward algorithm, for S sentences of one length T."""
        follow = self._follow[:-1, :-1]
        forward, backward = np.empty_like(seen), np.empty_like(seen)
        forward[:, 0] = self._follow[_BEGIN, :-1] * seen[:, 0]
        for t in range(1, seen.shape[1]):
            forward[:, t] = (forward[:, t - 1] @ follow) * seen[:, t]
            forward[:, t] /= forward[:, t].sum(axis=1, keepdims=True)
        backward[:, -1] = self._follow[:-1, -1]
        for t in range(seen.shape[1] - 2, -1, -1):
            backward[:, t] = (backward[:, t + 1] * seen[:, t + 1]) @ follow.T
            backward[:, t] /= backward[:, t].sum(axis=1, keepdims=True)
        posterior = forward * backward
        return posterior / posterior.sum(axis=2, keepdims=True)


@functools.lru_cache(maxsize=100_000)
def _shape(word: str) -> np.ndarray:
    """(K,) P(tag) by the shape of a word alone."""
    row = np.zeros(len(TAGS))
    for tag, weight in _possible(word).items():
        row[TAGS.index(tag)] = weight
    row /= row.sum()
    row.setflags(write=False)
    return row


def _graph(caption: str, found: Sequence[Token], tags: str) -> SceneGraph:
    """Reads chunks and relations off the tags."""
    objects: list[Node] = []
    attributes: list[Node] = []
    relations: list[Node] = []
    phrases: list[Span] = []
    starts: dict[int, int] = {}  # token at which a noun phrase begins (its determiner counted) -> object
    ends: list[int] = []  # token behind each object
    owned: set[int] = set()  # adjectives that stand before their noun
    for run in re.finditer(r"[NL]+", tags):
        first = run.start()
        adjectives = []
        while first and (tags[first - 1] in "JM" or _joins_adjectives(tags, first - 1)):
            first -= 1
            if tags[first] in "JM":
                adjectives.append(first)
        owned.update(adjectives)
        begin = first - (first > 0 and tags[first - 1] in "AD")
        span = (found[run.start()].span[0], found[run.end() - 1].span[1])
        text = " ".join(token.text for token in found[run.start() : run.end()])
        starts[begin] = starts[first] = len(objects)
        ends.append(run.end())
        for k in reversed(adjectives):
            attributes.append(_attribute(found[k], len(objects)))
        phrases.append((found[first].span[0], span[1]))
        objects.append(Node("object", text, span, "many" if tags[run.end() - 1] == "L" else "one"))
    subject: int | None = None  # of the clause: the last object that no preposition or verb governs
    nearest: int | None = None
    governed: set[int] = set()
    for i, (token, tag) in enumerate(zip(found, tags)):
        if i in starts and starts[i] != nearest:
            if nearest in governed and i and tags[i - 1] in "C." and not _opens_clause(tags, found, i, ends[starts[i]]):
                governed.add(starts[i])  # "with a coat and a hat": what governs the first governs both
            nearest = starts[i]
            if nearest not in governed:
                subject = nearest
        following = starts.get(i + 1)
        if tag in "VBG" or (tag == "X" and token.text in ("has", "have", "had") and following is not None):
            tail = following if following is not None else _behind_preposition(tags, starts, i)
            relations.append(Node("relation", token.text, token.span, _verb_form(token.text, tags, i), subject, tail))
            if following is not None:
                governed.add(following)
        elif tag == "P" and (following is not None or tags[i + 1 : i + 2] == "O"):
            after_verb = i > 0 and tags[i - 1] in "VBGRX"
            head = subject if after_verb else nearest
            if following is not None and (i == 0 or tags[i - 1] in "C.W"):
                behind = _behind_verb(tags, starts, found, after=objects[following].span[1])
                head = head if behind is None else behind
            relations.append(Node("relation", token.text, token.span, "preposition", head, following))
            if following is not None:
                governed.add(following)
        elif tag in "PR" and _PLACE.match(token.text):
            behind = None
            if i == 0 or tags[i - 1] in "C.W":
                behind = _behind_verb(tags, starts, found, after=token.span[1])
            head = subject if behind is None else behind
            relations.append(Node("relation", token.text, token.span, "place", head))
        elif tag in "JM" and i not in owned:
            attributes.append(_attribute(token, nearest if i and tags[i - 1] == "P" else subject))
    attributes.sort(key=lambda node: node.span)
    return SceneGraph(caption, tuple(objects), tuple(attributes), tuple(relations), tuple(phrases))


def _joins_adjectives(tags: str, i: int) -> bool:
    """Whether token i joins two adjectives of one noun: "black and white dog"."""
    return 0 < i < len(tags) - 1 and tags[i] in "C." and tags[i - 1] == "J" and tags[i + 1] == "J"


def _opens_clause(tags: str, found: Sequence[Token], i: int, end: int) -> bool:
    """Whether the noun phrase at tokens [i, end) is the subject of a new clause and not one more of a list: "a coat,
    and a dog runs" but "a coat and a hat"."""
    if found[i - 1].text in (";", ".", ":"):
        return True
    return tags[max(0, i - 2) : i] == ".C" and tags[end : end + 1] in tuple("XVB")


def _behind_preposition(tags: str, starts: dict[int, int], i: int) -> int | None:
    j = i + 1
    while j < len(tags) and tags[j] in "RP":
        j += 1
    return starts.get(j) if j > i + 1 else None


def _behind_verb(tags: str, starts: dict[int, int], found: Sequence[Token], after: int) -> int | None:
    """The subject of an inverted clause, "left of the house is a tree": what stands behind the verb that stands behind
    character `after`."""
    i = next((k for k, token in enumerate(found) if token.span[0] >= after), len(found))
    return starts.get(i + 1) if tags[i : i + 1] == "X" else None


def _attribute(token: Token, head: int | None) -> Node:
    return Node("attribute", token.text, token.span, grammar().adjectives.get(token.text, ""), head)


def _verb_form(word: str, tags: str, i: int) -> str:
    following = tags[i + 1] if i + 1 < len(tags) else ""
    frame = "object" if following and following in "ADMJNLO" else "preposition" if following == "P" else "none"
    if tags[i] == "X":
        return "has"
    ending = "ing" if word.endswith("ing") else "ed" if tags[i] == "G" else "s" if tags[i] == "V" else ""
    return f"{ending}+{frame}"
