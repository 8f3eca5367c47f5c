"""The words of `scenes`, and a reader that understands captions and checks them against a scene.

The reader knows only words and geometry, not how `captions` writes: whatever a model generates is read the
same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import permutations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from unimo.synthetic.world import COLOURS, Scene, Thing, holds, places

# The first word is the usual one.
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
    "ring": ("ring", "hoop"),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLACE_WORDS = {
    "top left": ("in the top left corner", "at the top left"),
    "top right": ("in the top right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "centre": ("in the middle", "in the centre"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x")) else "s")


def _names(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words}


_NOUNS = _names(SHAPE_WORDS)
_PLURALS = {plural(word): name for word, name in _NOUNS.items()}
_SIZES = _names(SIZE_WORDS)
_RELATIONS = _names(RELATION_WORDS)
_PLACES = _names(PLACE_WORDS)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))  # longest first: "to the left of" before "left of"


_SEPARATOR = re.compile(r"[.,;:!?]|\b(?:and|while|with)\b")
_ITEM = re.compile(
    rf"\b(?:(?P<place>{_any_of(_PLACES)})|(?P<relation>{_any_of(_RELATIONS)})|(?P<them>them)"
    rf"|(?:(?P<first>the|{_any_of(NUMBERS)}) )?(?P<adjectives>(?:(?:{_any_of([*_SIZES, *COLOURS])}) )*)"
    rf"(?P<noun>{_any_of([*_NOUNS, *_PLURALS])}))\b"
)


def parse_caption(text: str) -> list[dict]:
    """The mentions of a caption, in order: dicts of colour, shape, size, count, relations and places.

    What is not stated is None (colour, size). relations: [(name, index of the other mention)], the index None
    where an ungrammatical caption names no other; places: names as in `world.places`. Unknown words are
    skipped.
    """
    mentions: list[dict] = []
    previous: list[int] = []  # mentions of the last clause that stated something: what "them" means
    for clause in _SEPARATOR.split(" ".join(text.lower().split())):
        items: list[tuple[str, str, list[int]]] = []  # (what, name, mentions)
        for match in _ITEM.finditer(clause):
            if match["place"]:
                items.append(("place", _PLACES[match["place"]], []))
            elif match["relation"]:
                items.append(("relation", _RELATIONS[match["relation"]], []))
            else:
                items.append(("mention", "", previous if match["them"] else [_mention(match, mentions)]))
        _state(items, mentions)
        if any(what != "mention" for what, _, _ in items):
            previous = [i for _, _, indices in items for i in indices]
    return mentions


def _mention(match: re.Match, mentions: list[dict]) -> int:
    """The index of the mention a noun phrase means: an earlier one for "the ...", else a new one."""
    adjectives, noun = match["adjectives"].split(), match["noun"]
    colours = [word for word in adjectives if word in COLOURS]
    sizes = [_SIZES[word] for word in adjectives if word in _SIZES]
    stated = {
        "colour": " ".join(colours) or None,  # "a red blue circle" has a colour that fits nothing
        "shape": _NOUNS.get(noun) or _PLURALS[noun],
        "size": " ".join(sizes) or None,
    }
    if match["first"] == "the":
        for i, earlier in enumerate(mentions):
            if all(value is None or value == earlier[key] for key, value in stated.items()):
                return i
    number = NUMBERS.index(match["first"]) if match["first"] in NUMBERS else 0
    count = number or (2 if noun in _PLURALS else 1)
    mentions.append({**stated, "count": count, "relations": [], "places": []})
    return len(mentions) - 1


def _state(items: list[tuple[str, str, list[int]]], mentions: list[dict]) -> None:
    """Write what one clause states into its mentions."""
    for k, (what, name, _) in enumerate(items):
        if what == "mention":
            continue
        inverted = k == 0
        at_subject = k - 1 if not inverted else 2 if what == "relation" else 1
        at_object = k + 1
        subjects = items[at_subject][2] if at_subject < len(items) else []
        objects = items[at_object][2] if at_object < len(items) else []
        for i in subjects:
            if what == "place":
                mentions[i]["places"].append(name)
            else:
                mentions[i]["relations"] += [(name, j) for j in objects or (None,)]


def caption_is_true(text: str, a_scene: Scene) -> bool:
    """Whether the caption mentions something, and distinct things of the scene are all that it states.

    "two red circles" is true where exactly two things are red circles; "a red circle" where at least one is.
    """
    mentions = parse_caption(text)
    owners = [m for m, mention in enumerate(mentions) for _ in range(mention["count"])]
    if not mentions or len(owners) > len(a_scene.things):
        return False
    for mention in mentions:
        fitting = sum(_fits(mention, thing) for thing in a_scene.things)
        if mention["count"] > 1 and fitting != mention["count"]:
            return False
    for chosen in permutations(a_scene.things, len(owners)):
        named = [[thing for owner, thing in zip(owners, chosen) if owner == m] for m in range(len(mentions))]
        if all(_stated_of(mention, things, named) for mention, things in zip(mentions, named)):
            return True
    return False


def _fits(mention: dict, thing: Thing) -> bool:
    return all(mention[key] in (None, getattr(thing, key)) for key in ("colour", "shape", "size"))


def _stated_of(mention: dict, things: list[Thing], named: list[list[Thing]]) -> bool:
    return all(
        _fits(mention, thing)
        and all(place in places(thing) for place in mention["places"])
        and all(
            other is not None and all(holds(thing, relation, that) for that in named[other])
            for relation, other in mention["relations"]
        )
        for thing in things
    )


def caption_attributes(text: str, a_scene: Scene) -> tuple[int, int]:
    """How many things a caption gets right: (correct, total).

    total is the larger of the numbers of things mentioned and present. correct is the largest number of
    mentioned things that can each be given a thing of its own with that colour and shape, and that size where
    one is stated.
    """
    mentions = [mention for mention in parse_caption(text) for _ in range(mention["count"])]
    fits = [[bool(mention["colour"]) and _fits(mention, thing) for thing in a_scene.things] for mention in mentions]
    given = maximum_bipartite_matching(csr_matrix(fits)) if mentions else np.zeros(0)
    return int((given >= 0).sum()), max(len(mentions), len(a_scene.things))
