"""The world of `scenes`: a few flat things on a light ground, how they lie, and how they are drawn.

Everything is a pure function of (seed, split, index). All lengths are fractions of the image's side, x to the
right and y downwards, so one scene can be drawn at any size.

    split           what it holds
    train           no reserved combination; its bag of colours and shapes hashes to the train part
    heldout         the same, but its bag hashes to the held-out part: no training scene has it
    compositional   at least one reserved (colour, shape) combination, found in no training image or text

Things stand on a board of 4 x 4 fields, one on a field and not quite in its middle. At 64 px a field is one patch of
16 px: a small model then has to learn what is on a patch, not how to join four parts of a thing.

Scenes 2k and 2k + 1 are often *twins*: the same colours, shapes and sizes, put together otherwise. A model
that only collects words and features cannot tell twins apart; it has to bind a colour to its shape and a
shape to its place.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

from unimo.errors import UsageError

COLOURS = {
    "red": (216, 32, 36),
    "green": (34, 150, 62),
    "blue": (38, 84, 214),
    "yellow": (246, 202, 20),
    "purple": (138, 48, 172),
    "pink": (250, 132, 192),
    "brown": (128, 78, 40),
    "black": (24, 24, 26),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring")
SIZES = {"small": 10 / 64, "large": 14 / 64}  # side of the bounding box; smaller is unreadable
FIELDS = 4  # per side of the board
JITTER = 1 / 64  # how far a thing stands from the middle of its field, at most, each way
GROUNDS = ((240, 240, 238), (246, 238, 222), (226, 236, 246), (228, 242, 228), (244, 230, 236))

# (colour, shape) combinations kept out of training. Each colour and each shape loses at most one partner.
RESERVED = frozenset((colour, SHAPES[(3 * i + 1) % 8]) for i, colour in enumerate(list(COLOURS)[:6]))
COMBINATIONS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TRAINED = tuple(combination for combination in COMBINATIONS if combination not in RESERVED)

SPLITS = ("train", "heldout", "compositional")
HELDOUT_PART = 8  # one bag in eight is held out
MARGIN = 9 / 64  # a relation is stated only where centres differ by this much: any two things have one
REPEATED = 0.25  # how often a thing repeats the colour and shape of an earlier one
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Thing:
    """One object: `x`, `y` is the centre of its bounding box."""

    colour: str
    shape: str
    size: str
    x: float
    y: float

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    ground: int  # which of GROUNDS
    texture: int  # seed of the ground's soft blotches


def scene(seed: int, split: str, index: int, *, objects: tuple[int, int] = (2, 4), twins: float = 0.5) -> Scene:
    """Scene `index` of a split, with `objects` = (minimum, maximum) things.

    twins: fraction of the couples (2k, 2k + 1) that are twins. Raises UsageError on an unknown split or an
    impossible number.
    """
    if split not in SPLITS:
        raise UsageError("unknown split", got=split, expected=", ".join(SPLITS))
    if not 2 <= objects[0] <= objects[1] <= 4:
        raise UsageError("impossible number of objects", got=objects, expected="2 <= minimum <= maximum <= 4")
    if not 0 <= twins <= 1:
        raise UsageError("impossible fraction of twins", got=twins, expected="0 <= twins <= 1")
    couple, second = divmod(index, 2)
    rng = random.Random(f"scene/{seed}/{split}/{couple}")
    first_scene = _random_scene(rng, split, objects)
    if not second:
        return first_scene
    if rng.random() < twins:
        return _twin(first_scene, split, rng)
    return _random_scene(rng, split, objects)


def class_scene(seed: int, index: int) -> tuple[Scene, int, str]:
    """An image of one thing with its class: (scene, label, label name such as "red circle").

    Labels number COMBINATIONS, reserved ones included, and take turns: label = index mod 64.
    """
    rng = random.Random(f"class/{seed}/{index}")
    label = index % len(COMBINATIONS)
    colour, shape = COMBINATIONS[label]
    return _lay_out([(colour, shape)], rng), label, f"{colour} {shape}"


def lone_scene(seed: int, index: int) -> Scene:
    """Scene `index` of one thing alone, of a combination that is not reserved."""
    rng = random.Random(f"alone/{seed}/{index}")
    return _lay_out([rng.choice(TRAINED)], rng)


def in_split(kinds: list[tuple[str, str]], split: str) -> bool:
    """Whether things of these (colour, shape) kinds may stand together in a scene of the split."""
    has_reserved = any(kind in RESERVED for kind in kinds)
    if split == "compositional":
        return has_reserved
    # Hashing the bag, not the scene, keeps twins on one side and makes the splits disjoint for every seed.
    bag = f"{sorted(colour for colour, _ in kinds)} {sorted(shape for _, shape in kinds)}"
    part = hashlib.blake2b(bag.encode(), digest_size=4).digest()[0] % HELDOUT_PART
    return not has_reserved and (part == 0) == (split == "heldout")


def holds(a: Thing, relation: str, b: Thing) -> bool:
    """Whether `a` is left of / right of / above / below `b`, clearly (by MARGIN)."""
    if relation == "left of":
        return b.x - a.x >= MARGIN
    if relation == "above":
        return b.y - a.y >= MARGIN
    return holds(b, OPPOSITE[relation], a)


def relations(a_scene: Scene) -> list[tuple[int, str, int]]:
    """Every true (thing, relation, thing), things as indices: the edges of the scene graph."""
    numbered = list(enumerate(a_scene.things))
    return [(i, name, j) for i, a in numbered for j, b in numbered for name in OPPOSITE if holds(a, name, b)]


def places(thing: Thing) -> list[str]:
    """Every true place of a thing: a corner, an edge, the centre. A thing has at most three."""
    column = "left" if thing.x < 0.25 else "right" if thing.x > 0.75 else ""
    row = "top" if thing.y < 0.25 else "bottom" if thing.y > 0.75 else ""
    if column and row:
        return [f"{row} {column}", row, column]
    return [row or column or "centre"]


def boxes(a_scene: Scene, size: int = 64) -> list[list[float]]:
    """Bounding boxes in pixels of an image of side `size`: [x0, y0, x1, y1] for each thing."""
    return [[round(size * edge, 2) for edge in _edges(thing)] for thing in a_scene.things]


def draw(a_scene: Scene, size: int = 64) -> Image.Image:
    """The image, RGB, `size` x `size` pixels; drawn four times as large and averaged for smooth edges."""
    rng = random.Random(a_scene.texture)
    tone = GROUNDS[a_scene.ground]
    blotches = bytes(channel + shift for shift in rng.choices(range(-7, 8), k=16) for channel in tone)
    image = Image.frombytes("RGB", (4, 4), blotches).resize((size, size), Image.Resampling.BILINEAR)
    image = image.resize((4 * size, 4 * size), Image.Resampling.NEAREST)  # cheap, and undone by the averaging
    pen = ImageDraw.Draw(image)
    for thing in a_scene.things:
        # Pillow's end coordinates are inclusive, hence the - 1.
        x0, y0, x1, y1 = (4 * size * edge for edge in _edges(thing))
        box, colour = (x0, y0, x1 - 1, y1 - 1), COLOURS[thing.colour]
        if thing.shape == "circle":
            pen.ellipse(box, fill=colour)
        elif thing.shape == "ring":
            pen.ellipse(box, outline=colour, width=round(0.24 * (x1 - x0)))
        else:
            corners = [(x0 + u * (x1 - 1 - x0), y0 + v * (y1 - 1 - y0)) for u, v in OUTLINES[thing.shape]]
            pen.polygon(corners, fill=colour)
    return image.reduce(4)


def _random_scene(rng: random.Random, split: str, objects: tuple[int, int]) -> Scene:
    while True:  # one draw in HELDOUT_PART fits the rarest split: this ends
        kinds = [rng.choice(TRAINED)]
        for _ in range(rng.randint(*objects) - 1):
            kinds.append(rng.choice(kinds) if rng.random() < REPEATED else rng.choice(TRAINED))
        if split == "compositional":
            kinds[rng.randrange(len(kinds))] = rng.choice(sorted(RESERVED))
        if len(set(kinds)) > 1 and in_split(kinds, split):  # equal things alone could not be told apart
            return _lay_out(kinds, rng)


def _lay_out(kinds: list[tuple[str, str]], rng: random.Random) -> Scene:
    """Give every kind a field of its own and a size."""
    things = []
    for (colour, shape), field in zip(kinds, rng.sample(range(FIELDS**2), len(kinds))):
        row, column = divmod(field, FIELDS)
        x, y = (round((k + 0.5) / FIELDS + rng.uniform(-JITTER, JITTER), 4) for k in (column, row))
        things.append(Thing(colour, shape, rng.choice(("small", "large")), x, y))
    return Scene(tuple(things), rng.randrange(len(GROUNDS)), rng.getrandbits(32))


def _twin(original: Scene, split: str, rng: random.Random) -> Scene:
    """The scene with two things' colours exchanged, or colours and shapes: then the things change places."""
    found = []
    for j, b in enumerate(original.things):
        for i, a in enumerate(original.things[:j]):
            if a.kind == b.kind:
                continue
            for shape_a, shape_b in ((a.shape, b.shape), (b.shape, a.shape)):
                things = list(original.things)
                things[i] = replace(a, colour=b.colour, shape=shape_a)
                things[j] = replace(b, colour=a.colour, shape=shape_b)
                if tuple(things) != original.things and in_split([thing.kind for thing in things], split):
                    found.append(tuple(things))
    # Changing places is always possible. The texture is new, so that twins differ in no telling pixel.
    return Scene(rng.choice(found), rng.randrange(len(GROUNDS)), rng.getrandbits(32))


def _edges(thing: Thing) -> tuple[float, float, float, float]:
    half = SIZES[thing.size] / 2
    return thing.x - half, thing.y - half, thing.x + half, thing.y + half


def _fill_unit_box(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [((x - min(xs)) / (max(xs) - min(xs)), (y - min(ys)) / (max(ys) - min(ys))) for x, y in points]


def _star() -> list[tuple[float, float]]:
    turns = [(math.pi * k / 5, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
    return _fill_unit_box([(r * math.sin(turn), -r * math.cos(turn)) for turn, r in turns])


def _heart() -> list[tuple[float, float]]:
    def height(t: float) -> float:
        return 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)

    turns = [2 * math.pi * k / 40 for k in range(40)]
    return _fill_unit_box([(16 * math.sin(t) ** 3, -height(t)) for t in turns])


_CROSS_ROWS = (0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 1, 1)
# Corners inside the unit box, each outline touching all four sides: the bounding box is exact.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
    "cross": [(x / 3, y / 3) for x, y in zip((1, 2, 2, 3, 3, 2, 2, 1, 1, 0, 0, 1), _CROSS_ROWS)],
    "star": _star(),
    "heart": _heart(),
}
