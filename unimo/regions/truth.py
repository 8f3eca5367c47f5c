"""Exact regions of the generated world (`unimo.synthetic.dataset`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimo.errors import DataError
from unimo.json_files import load_json
from unimo.regions.source import CorpusImage, Detections, RegionSource, random_projection
from unimo.synthetic.dataset import IMAGES_FROM
from unimo.synthetic.world import COMBINATIONS, Scene, class_scene, draw, scene
from unimo.synthetic.world import boxes as boxes_of

SIDE, SMOOTHING = 8, 0.1


class Truth(RegionSource):
    """The things of a generated scene where they are drawn, in the order of its JSON.

    features: the crop, resized to a small square, channels from -1 to 1 (projected where F is not its size). classes:
    the 64 combinations of colour and shape, SMOOTHING of the mass spread over all of them. An image whose JSON names
    no things (`images`, `classes`) is drawn again from world.json, and must come out pixel by pixel.
    """

    def __init__(self, feature_size: int | None = None):
        self.feature_size, self.classes = feature_size or 3 * SIDE**2, len(COMBINATIONS)
        self._worlds: dict[Path, dict] = {}

    def identity(self) -> dict[str, Any]:
        return {"source": "truth", "side": SIDE, "smoothing": SMOOTHING}

    def regions(self, image: CorpusImage) -> Detections:
        width, height = image.size
        kinds, boxes = self._things(image)
        crops = [self._crop(image.image, box) for box in boxes]
        classes = np.full((len(kinds), self.classes), SMOOTHING / self.classes, np.float32)
        classes[np.arange(len(kinds)), [COMBINATIONS.index(kind) for kind in kinds]] += 1 - SMOOTHING
        features = random_projection(np.array(crops).reshape(len(crops), 3 * SIDE**2), self.feature_size)
        return Detections(features, np.array(boxes).reshape(len(boxes), 4), width, height, classes)

    def _things(self, image: CorpusImage) -> tuple[list[tuple[str, str]], list[list[float]]]:
        """(colour, shape) and corners of every thing."""
        meta = image.meta
        if "boxes" not in meta:
            drawn = self._drawn_again(image)
            return [thing.kind for thing in drawn.things], boxes_of(drawn, image.size[0])
        try:
            kinds = [(thing["colour"], thing["shape"]) for thing in meta["objects"]]
            corners = [[float(edge) for edge in box] for box in meta["boxes"]]
            sound = len(kinds) == len(corners) > 0 and {len(box) for box in corners} == {4}
        except (KeyError, TypeError, ValueError) as fault:
            raise DataError("not the truth of a scene", where=image.key, got=repr(fault)) from fault
        if not sound or not set(kinds) <= set(COMBINATIONS):
            expected = "colours and shapes of the world, and one box for each thing"
            raise DataError("not the truth of a scene", where=image.key, got=f"{kinds}, {corners}", expected=expected)
        width, height = image.size
        if not all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in corners):
            expected = f"0 <= x1 < x2 <= {width}, 0 <= y1 < y2 <= {height}"
            raise DataError("A box is not within its image", where=image.key, got=corners, expected=expected)
        return kinds, corners

    def _drawn_again(self, image: CorpusImage) -> Scene:
        world = self._world(image.shard)
        kind, _, number = image.key.rpartition("-")
        if kind not in ("image", "class") or not number.isdecimal():
            expected = "objects and boxes in its JSON, or a key such as image-000123"
            raise DataError("an image without truth", where=image.key, expected=expected)
        if kind == "class":
            drawn = class_scene(world["seed"], int(number))[0]
        else:
            options = {"objects": tuple(world["objects"]), "twins": world["twins"]}
            drawn = scene(world["seed"], "train", IMAGES_FROM + int(number), **options)
        if not np.array_equal(np.asarray(draw(drawn, world["size"])), np.asarray(image.image)):
            raise DataError("the world draws another image", where=image.key, do="write the world again")
        return drawn

    def _world(self, shard: Path) -> dict:
        manifest = shard.parent.parent / "world.json"
        if manifest not in self._worlds:
            expected = "boxes in each image's JSON, or the manifest of the generated world two folders up"
            if not manifest.is_file():
                raise DataError("no world to draw from", where=manifest, got="no file", expected=expected)
            try:
                parameters = load_json(manifest)["parameters"]
                self._worlds[manifest] = {name: parameters[name] for name in ("seed", "objects", "twins", "size")}
            except (KeyError, TypeError) as fault:
                raise DataError("no world to draw from", where=manifest, got=repr(fault), expected=expected) from fault
        return self._worlds[manifest]

    def _crop(self, image: Image.Image, box: Sequence[float]) -> np.ndarray:
        small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(box[0], box[1], box[2], box[3]))
        return np.asarray(small, dtype=np.float32) / 127.5 - 1
