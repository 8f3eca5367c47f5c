"""Tasks of a scene: foils (hard negatives), questions, sentences that follow or do not.

No sentence made here names a reserved combination that its scene does not contain, so all of it may be
trained on.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from unimo.synthetic.captions import Description, captions, plan, write
from unimo.synthetic.language import NUMBERS, RELATION_WORDS, SHAPE_WORDS, caption_is_true, plural
from unimo.synthetic.world import COLOURS, OPPOSITE, RESERVED, SHAPES, TRAINED, Scene, holds

ATTEMPTS = 20  # plans tried before a scene has no foil of a kind; a sentence is worth fewer


class Foil(NamedTuple):
    """A true caption and a false one as near to it as can be. kind: attribute, object or relation."""

    kind: str
    positive: str
    negative: str


def foils(a_scene: Scene, rng: random.Random) -> list[Foil]:
    """At most one foil of each kind; every negative is checked to be false of the scene.

        attribute   two things exchange colours             a red disc over a blue star / a blue disc over ...
        relation    two things exchange places              a red disc over a blue star / a blue star over ...
        object      one thing gets other colour or shape    a red disc over a blue star / a red ring over ...

    The first two keep the bag of words, so a model without order or binding scores 50 %. A scene may lack a
    kind: two red things have no colours to exchange.
    """
    found = (_foil(a_scene, kind, rng) for kind in CHANGES)
    return [foil for foil in found if foil]


def bag_of_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def _foil(a_scene: Scene, kind: str, rng: random.Random, attempts: int = ATTEMPTS) -> Foil | None:
    for _ in range(attempts):
        description = plan(a_scene, rng)
        if any(mention.again for mention in description.mentions):
            continue  # "another red circle" would become nonsense when its fellow changes
        changed = CHANGES[kind](description, rng)
        if changed is None or len({mention.kind for mention in changed.mentions}) < len(changed.mentions):
            continue  # equal mentions would leave open what "the red circle" means
        positive, negative = write(description), write(changed)
        if kind != "object" and bag_of_words(positive) != bag_of_words(negative):
            continue
        if not caption_is_true(negative, a_scene):
            return Foil(kind, positive, negative)
    return None


def _exchange_colours(description: Description, rng: random.Random) -> Description | None:
    i, j = rng.sample(range(len(description.mentions)), 2)
    a, b = description.mentions[i], description.mentions[j]
    if a.colour == b.colour or RESERVED & {(b.colour, a.shape), (a.colour, b.shape)}:
        return None
    return _with(description, {i: replace(a, colour=b.colour), j: replace(b, colour=a.colour)})


def _exchange_places(description: Description, rng: random.Random) -> Description:
    i, j = rng.sample(range(len(description.mentions)), 2)
    return _with(description, {i: description.mentions[j], j: description.mentions[i]})


def _replace_one(description: Description, rng: random.Random) -> Description | None:
    i = rng.randrange(len(description.mentions))
    mention = description.mentions[i]
    if rng.random() < 0.5:
        changed = replace(mention, colour=rng.choice(list(COLOURS)))
    else:
        shape = rng.choice(SHAPES)
        if shape in {other.shape for other in description.mentions}:
            return None  # "the circle" must go on meaning one thing
        changed = replace(mention, shape=shape, noun=SHAPE_WORDS[shape][0])
    if changed.kind in RESERVED:
        return None
    return _with(description, {i: changed})


def _with(description: Description, changed: dict) -> Description:
    return replace(
        description, mentions=tuple(changed.get(i, mention) for i, mention in enumerate(description.mentions))
    )


CHANGES: dict[str, Callable[[Description, random.Random], Description | None]] = {
    "attribute": _exchange_colours,
    "relation": _exchange_places,
    "object": _replace_one,
}


def questions(a_scene: Scene, rng: random.Random) -> list[dict]:
    """One question of each type the scene admits: {question, answer, type}. Answers are one word."""
    makers = {
        "count": _count_question,
        "colour": _colour_question,
        "shape": _shape_question,
        "exists": _exists_question,
        "relation": _relation_question,
        "compare": _compare_question,
    }
    made = ((name, maker(a_scene, rng)) for name, maker in makers.items())
    return [{"question": found[0], "answer": found[1], "type": name} for name, found in made if found]


def _count_question(a_scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(a_scene.things)
    colour, shape = rng.choice(((None, None), (thing.colour, None), (None, thing.shape), thing.kind))
    number = sum(colour in (None, t.colour) and shape in (None, t.shape) for t in a_scene.things)
    noun = plural(shape or "thing")
    return f"how many {f'{colour} {noun}' if colour else noun} are there?", NUMBERS[number]


def _colour_question(a_scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    shapes = Counter(thing.shape for thing in a_scene.things)
    clear = [thing for thing in a_scene.things if shapes[thing.shape] == 1]
    thing = rng.choice(clear) if clear else None
    return (f"what colour is the {thing.shape}?", thing.colour) if thing else None


def _shape_question(a_scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    colours = Counter(thing.colour for thing in a_scene.things)
    clear = [thing for thing in a_scene.things if colours[thing.colour] == 1]
    thing = rng.choice(clear) if clear else None
    return (f"what shape is the {thing.colour} thing?", thing.shape) if thing else None


def _exists_question(a_scene: Scene, rng: random.Random) -> tuple[str, str]:
    present = [thing.kind for thing in a_scene.things]
    if rng.random() < 0.5:
        colour, shape = rng.choice(present)
        return f"is there a {colour} {shape}?", "yes"
    absent = [kind for kind in TRAINED if kind not in present]
    # Colour and shape both there, but not on one thing: the question that needs binding.
    unbound = [k for k in absent if k[0] in {c for c, _ in present} and k[1] in {s for _, s in present}]
    colour, shape = rng.choice(unbound or absent)
    return f"is there a {colour} {shape}?", "no"


def _relation_question(a_scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    kinds = Counter(thing.kind for thing in a_scene.things)
    clear = [thing for thing in a_scene.things if kinds[thing.kind] == 1]
    if len(clear) < 2:
        return None
    a, b = rng.sample(clear, 2)
    name = rng.choice([name for name in OPPOSITE if holds(a, name, b)])
    answer = rng.choice(("yes", "no"))
    words = rng.choice(RELATION_WORDS[name if answer == "yes" else OPPOSITE[name]])
    return f"is the {a.colour} {a.shape} {words} the {b.colour} {b.shape}?", answer


def _compare_question(a_scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    if rng.random() < 0.5:
        counts = Counter(f"{thing.colour} things" for thing in a_scene.things)
    else:
        counts = Counter(plural(thing.shape) for thing in a_scene.things)
    if len(counts) < 2:
        return None
    a, b = rng.sample(sorted(counts), 2)
    return f"are there more {a} than {b}?", "yes" if counts[a] > counts[b] else "no"


def entailment(a_scene: Scene, rng: random.Random) -> list[dict]:
    """One sentence of each label, the image being the premise: {sentence, label}.

    entailment: true of the image; contradiction: false of it; neutral: about what no image of this world
    can decide (weight, owners, names, what was before).
    """
    things = a_scene.things
    thing = rng.choice(things)
    true = rng.choice((captions(a_scene, rng, 1)[0], f"there are {NUMBERS[len(things)]} things"))
    foil = _foil(a_scene, rng.choice(list(CHANGES)), rng, attempts=4) if rng.random() < 0.8 else None
    false = f"there are {NUMBERS[rng.choice([n for n in (2, 3, 4, 5) if n != len(things)])]} things"
    neutral = rng.choice(UNDECIDABLE).format(f"a {thing.colour} {rng.choice(SHAPE_WORDS[thing.shape])}")
    return [
        {"sentence": true, "label": "entailment"},
        {"sentence": foil.negative if foil else false, "label": "contradiction"},
        {"sentence": neutral, "label": "neutral"},
    ]


UNDECIDABLE = (
    "{} is heavy",
    "{} is made of wood",
    "{} belongs to a child",
    "{} was painted first",
    "{} is called anna",
    "somebody likes {}",
    "there was {} here yesterday",
    "{} will be moved tomorrow",
)
