"""A caption as a scene graph: objects, their attributes, and the relations between them, each with its span.

    a little girl in a pink dress climbs the stairs
      ------ ----    ---- ----- ------     ------     girl(little) · dress(pink) · stairs
                                                      girl -in-> dress · girl -climbs-> stairs

UNIMO rewrites the nodes of such a graph (section 3.2 and Fig. 3); the parser it cites, like the maintained ones, needs
a trained model to be fetched. This one needs none and no particular domain: English function words and a hand-written
table of which class of word follows which are known (`unimo.rewriting.grammar`), and the classes of all other words are
learnt from the user's own captions (`unimo.rewriting.tagger`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unimo.data.sample import NodeKind
from unimo.rewriting.grammar import Span, Token, grammar, tokens
from unimo.rewriting.tagger import Tagger

_PLACE = re.compile(r"(in|on|at|to) the (?!same)")  # "in the middle": a relation without an object


@dataclass(frozen=True)
class Node:
    """One object, attribute or relation.

    span: its characters. form: what a substitute must share with it: objects "one", "many"; attributes their group
    ("colour", "number", ...) or ""; relations "preposition", or the verb's "s", "", "ing", "ed" followed by
    "+object", "+preposition" or "+none". head: the object an attribute belongs to; the subject of a relation. tail: the
    object of a relation. Both are indices into `SceneGraph.objects`, None where there is none.
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


class Parser(Tagger):
    """Tags the words of captions and reads the graph off the tags."""

    def parse(self, caption: str) -> SceneGraph:
        """The graph of one caption; empty where the caption names no object."""
        found = tokens(caption)
        return _graph(caption, found, self.tag([token.text for token in found]))


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
