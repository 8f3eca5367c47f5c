"""The language of `scenes`: captions of a scene, and texts about the world.

A caption is planned, then written. The plan (`Description`) holds *mentions*, what is named, and *clauses*,
what is stated of them; `write` turns it into words. A foil is the same plan with two mentions exchanged: the
same words.

    mentions   a small red circle | two blue squares | another red circle
    clauses    M is left of M | above M is M | M is in the top left corner | there is M
    a list     an image of M, M and M. <clauses>
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from unimo.synthetic.language import (
    NUMBERS,
    PLACE_WORDS,
    RELATION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    caption_is_true,
    plural,
)
from unimo.synthetic.world import OPPOSITE, TRAINED, Scene, holds, places, scene


@dataclass(frozen=True)
class Mention:
    """What a noun phrase names: `things` are indices into the scene, `size` is None where it stays unsaid."""

    things: tuple[int, ...]
    colour: str
    shape: str
    noun: str  # singular
    size: str | None = None
    size_word: str = ""
    again: bool = False  # equal to the mention before it: "another red circle"
    short: bool = False  # later called "the circle" instead of "the red circle"

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape

    def phrase(self, definite: bool) -> str:
        count = len(self.things)
        noun = self.noun if count == 1 else plural(self.noun)
        if definite:
            return f"the {noun}" if self.short else f"the {self.colour} {noun}"
        first = NUMBERS[count] if count > 1 else "another" if self.again else "a"
        return " ".join(word for word in (first, self.size_word, self.colour, noun) if word)


@dataclass(frozen=True)
class Clause:
    """`subject` (a mention's index) is in a relation to `objects`, at a place, or just there."""

    subject: int
    words: str = ""
    objects: tuple[int, ...] = ()  # two objects: both mentions of the clause before, written "them"
    form: str = "there"  # "plain": M is left of M, "inverted": left of M is M, "there": there is M left of M


@dataclass(frozen=True)
class Description:
    mentions: tuple[Mention, ...]
    clauses: tuple[Clause, ...]
    opening: str | None  # words before a list of all mentions, None: no list
    joint: str


PLACED = 0.15  # how often a caption states the place of a thing though it could state a relation


@dataclass(frozen=True)
class CaptionMix:
    """What captions to train on tell. placed: see `plan`. places: share of captions that tell every thing and its
    place; relations: share that tells two things and how they lie to each other (of one thing alone: its place).

    Other captions tell both rarely, and their relations are of things already named: from them alone a model reads in
    images late, or not at all, who is where (docs/lab-notebook.md, 2026-12-01).
    """

    placed: float = PLACED
    places: float = 0.0
    relations: float = 0.0


def captions(a_scene: Scene, rng: random.Random, n: int, mix: CaptionMix = CaptionMix()) -> list[str]:
    """`n` true captions. Of those outside `mix` six in seven are full; the others name one or two things."""
    return [_caption(a_scene, rng, mix) for _ in range(n)]


def _caption(a_scene: Scene, rng: random.Random, mix: CaptionMix) -> str:
    spatial = mix.places + mix.relations
    draw = rng.random() if spatial else 1.0  # without them, the captions of worlds written before there was a mix
    if draw < mix.places or (draw < spatial and len(a_scene.things) == 1):
        return full_caption(a_scene, rng, placed=1.0)
    if draw < spatial:
        return write(plan(a_scene, rng, full=False, two=True, placed=0.0))
    if rng.random() < 6 / 7:
        return full_caption(a_scene, rng, placed=mix.placed)
    return write(plan(a_scene, rng, full=False, placed=mix.placed))


def full_caption(a_scene: Scene, rng: random.Random, *, unlike: Sequence[Scene] = (), placed: float = PLACED) -> str:
    """A caption with colour and shape of every thing, tied together by relations and places.

    placed: see `plan`. unlike: other scenes, of which the caption shall be false if thirty attempts allow.
    """
    caption = ""
    for _ in range(30):
        description = plan(a_scene, rng, placed=placed)
        while not any(clause.words for clause in description.clauses):  # a bare list does not state who is where
            description = plan(a_scene, rng, placed=placed)
        caption = write(description)
        if not any(caption_is_true(caption, other) for other in unlike):
            break
    return caption


def plan(
    a_scene: Scene, rng: random.Random, *, full: bool = True, two: bool = False, placed: float = PLACED
) -> Description:
    """Decide what to say: the mentions, each with a clause that ties it to another or to a place.

    full: mention everything, else one or two things; two: not one. placed: how often it is a place where it could be
    another.
    """
    mentions = _mentions(a_scene, rng)
    if not full:
        n = 2 if two else rng.randint(1, 2)
        mentions = [replace(mention, again=False) for mention in rng.sample(mentions, min(n, len(mentions)))]
    listed = full and rng.random() < 0.3
    kinds = [mention.kind for mention in mentions]
    clear = [i for i, kind in enumerate(kinds) if kinds.count(kind) == 1]  # "the ..." can only mean this one
    clauses: list[Clause] = []
    for i, mention in enumerate(mentions):
        if listed and i not in clear:
            continue
        anchors: list[tuple[int, ...]] = [(j,) for j in clear if j < i]
        if clauses and len(clauses[-1].objects) == 1:
            anchors += 2 * [(*clauses[-1].objects, clauses[-1].subject)]  # "them", twice as likely
        ties: list[tuple[str, tuple[int, ...]]] = [
            (_pick(rng, RELATION_WORDS[name]), anchor)
            for anchor in anchors
            for name in OPPOSITE
            if _all_hold(a_scene, mention.things, name, [k for j in anchor for k in mentions[j].things])
        ]
        if (not ties and i) or rng.random() < placed:
            shared = [p for p in places(a_scene.things[mention.things[0]]) if _all_at(a_scene, mention, p)]
            ties = [(_pick(rng, PLACE_WORDS[place]), ()) for place in shared[:1]] or ties
        if ties:
            words, objects = rng.choice(ties)
            form = rng.choice(("plain", "plain", "inverted", "plain" if listed else "there"))
            clauses.append(Clause(i, words, objects, form))
    if not listed:
        used = {i for clause in clauses for i in (clause.subject, *clause.objects)}
        clauses = [Clause(i) for i in range(len(mentions)) if i not in used] + clauses
    opening = rng.choice(("", "", "a picture of ")) if listed else None
    joint = rng.choice((", and ", ", and ", "; ", ", while " if len(clauses) == 2 else "; "))
    return Description(tuple(mentions), tuple(clauses), opening, joint)


def write(description: Description) -> str:
    """The words of a plan: a mention is "a ..." the first time, "the ..." or "them" later."""
    seen: set[int] = set()

    def name(i: int) -> str:
        definite = i in seen
        seen.add(i)
        return description.mentions[i].phrase(definite)

    beginning = ""
    if description.opening is not None:
        *first, last = [name(i) for i in range(len(description.mentions))]
        beginning = f"{description.opening}{', '.join(first)} and {last}. "
    sentences = []
    for clause in description.clauses:
        verb = "is" if len(description.mentions[clause.subject].things) == 1 else "are"
        subject = name(clause.subject) if clause.form != "inverted" else ""
        target = "them" if len(clause.objects) == 2 else " ".join(name(i) for i in clause.objects)
        if clause.form == "inverted":
            parts = [clause.words, target, verb, name(clause.subject)]
        elif clause.form == "there":
            parts = ["there", verb, subject, clause.words, target]
        else:
            parts = [subject, verb, clause.words, target]
        sentences.append(" ".join(part for part in parts if part))
    return (beginning + description.joint.join(sentences)).removesuffix(". ")


def _mentions(a_scene: Scene, rng: random.Random) -> list[Mention]:
    """Group the things into mentions, in random order, those that "the ..." can name first."""
    kinds = sorted({thing.kind for thing in a_scene.things})
    rng.shuffle(kinds)
    sized = rng.choice((0.0, 0.0, 0.5, 1.0))  # how often this caption says sizes
    grouped: list[Mention] = []
    single: list[Mention] = []
    for kind in kinds:
        members = tuple(i for i, thing in enumerate(a_scene.things) if thing.kind == kind)
        noun = _pick(rng, SHAPE_WORDS[kind[1]])
        # One mention at least stays unmistakable, for the others to be tied to.
        joined = rng.random() < 0.6 or (not grouped and kind == kinds[-1])
        for n, things in enumerate([members] if joined else [(i,) for i in members]):
            sizes = {a_scene.things[i].size for i in things}
            size = sizes.pop() if len(sizes) == 1 and rng.random() < sized else None
            size_word = _pick(rng, SIZE_WORDS[size]) if size else ""
            short = sum(shape == kind[1] for _, shape in kinds) == 1 and rng.random() < 0.4
            mention = Mention(things, *kind, noun, size, size_word, n > 0, short)
            (grouped if joined or len(members) == 1 else single).append(mention)
    return grouped + single


def _pick(rng: random.Random, words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 or rng.random() < 0.7 else words[1]


def _all_hold(a_scene: Scene, subjects: Iterable[int], name: str, objects: Iterable[int]) -> bool:
    return all(holds(a_scene.things[i], name, a_scene.things[j]) for i in subjects for j in objects)


def _all_at(a_scene: Scene, mention: Mention, place: str) -> bool:
    return all(place in places(a_scene.things[i]) for i in mention.things)


def texts(seed: int, index: int) -> str:
    """Paragraph `index`: train scenes, each described twice and counted, and general sentences about the world."""
    rng = random.Random(f"text/{seed}/{index}")
    sentences: list[str] = []
    for _ in range(rng.randint(1, 2)):
        described = scene(seed, "train", rng.getrandbits(40))
        sentences += captions(described, rng, 2)
        sentences += rng.sample(_countings(described, rng), 1)
        sentences += [_general_sentence(rng) for _ in range(rng.randint(1, 2))]
    return " ".join(_sentence(sentence) for sentence in sentences)


def _sentence(words: str) -> str:
    return ". ".join(part[0].upper() + part[1:] for part in words.split(". ")) + "."


def _countings(a_scene: Scene, rng: random.Random) -> list[str]:
    things = a_scene.things
    colour = rng.choice(things).colour
    same = sum(thing.colour == colour for thing in things)
    absent = rng.choice([kind for kind in TRAINED if kind not in {thing.kind for thing in things}])
    return [
        f"there are {NUMBERS[len(things)]} things",
        f"{NUMBERS[same]} of the {NUMBERS[len(things)]} things {'is' if same == 1 else 'are'} {colour}",
        f"there is no {absent[0]} {_pick(rng, SHAPE_WORDS[absent[1]])}",
    ]


def _general_sentence(rng: random.Random) -> str:
    """A sentence true of every scene: converses, chains, places, synonyms, counting."""
    kinds = rng.sample(TRAINED, 3)
    a, b, c = (f"{colour} {_pick(rng, SHAPE_WORDS[shape])}" for colour, shape in kinds)
    (colour, shape), name = kinds[0], rng.choice(list(OPPOSITE))
    words, back = _pick(rng, RELATION_WORDS[name]), _pick(rng, RELATION_WORDS[OPPOSITE[name]])
    row, column = rng.choice(("top", "bottom")), rng.choice(("left", "right"))
    usual, other = SHAPE_WORDS[shape][0], SHAPE_WORDS[shape][-1]
    return rng.choice(
        (
            f"if a {a} is {words} a {b}, the {b} is {back} the {a}",
            f"if a {a} is {words} a {b}, the {a} is not {back} the {b}",
            f"if a {a} is {words} a {b} and the {b} is {words} a {c}, the {a} is {words} the {c}",
            f"a {a} in the {row} {column} corner is at the {row} and on the {column}",
            f"a {a} and a {b} are two things",
            f"two {colour} {plural(usual)} and one {b} are three things",
            f"a {colour} {other} is a {colour} {usual}" if usual != other else f"a {colour} {usual} is a {usual}",
            f"a big {a} is a large {a}, and a little {b} is a small {b}",
            f"a {a} is {colour}, and it is a {usual}",
        )
    )
