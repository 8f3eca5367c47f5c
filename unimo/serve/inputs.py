"""What a form brings: its fields, bounded by their types, and images made into what the model takes.

S side of the model's images · R regions · F feature size
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import File, Form, UploadFile
from pydantic import Field, ValidationError

from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.data.regions import ImageRegions, image_regions
from unimo.errors import DataError
from unimo.inference import Pipeline
from unimo.model.unimo import UNIMO
from unimo.serve import schemas
from unimo.serve.guard import Refused, refused
from unimo.serve.limits import MAX_CHARACTERS, MAX_IMAGES, MAX_REGIONS, MAX_TEXTS, Limits

_IMAGE = "an encoded image (JPEG, PNG, WebP and others); of a UNIMO model, a JSON file of regions"
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Files = Annotated[Sequence[UploadFile], File(max_length=MAX_IMAGES, description=f"each {_IMAGE}")]
OneFile = Annotated[UploadFile | None, File(description=_IMAGE)]
Texts = Annotated[Sequence[Text], Form(max_length=MAX_TEXTS)]
OneText = Annotated[Text | None, Form()]
Row = tuple[Any, Any]  # a text or its two segments or None, and an image or None


def region_size(pipeline: Pipeline) -> int:
    """F of the regions that a UNIMO model reads; 0 of a model that sees pixels."""
    model = pipeline.model
    return model.regions.feature.in_features if isinstance(model, UNIMO) else 0


class Inputs:
    """Reads the images of forms for a model; two at a time are decoded."""

    def __init__(self, limits: Limits, pipeline: Pipeline):
        self.limits, self.side, self.region_size = limits, pipeline.side, region_size(pipeline)
        self._decoders = asyncio.Semaphore(2)  # so many of the largest images are in memory at once

    async def images(self, files: Sequence[UploadFile | None]) -> list[Any]:
        """(S, S, 3) uint8 or ImageRegions of each file, as the model sees it; absent ones are passed over."""
        return [await self._image(file) for file in files if file is not None]

    async def _image(self, file: UploadFile) -> np.ndarray | ImageRegions:
        async with self._decoders:
            data = await file.read()
            try:
                decoded = self._regions if self.side is None else self._pixels
                return await asyncio.to_thread(decoded, data, file.filename or "image")
            except DataError as error:
                raise Refused(422, error) from None

    def _pixels(self, data: bytes, name: str) -> np.ndarray:
        assert self.side is not None
        return resize(load_rgb(data, max_pixels=self.limits.max_pixels, where=name), self.side)

    def _regions(self, data: bytes, name: str) -> ImageRegions:
        """At most 100 regions, their features as long as the model's, their boxes inside the image."""
        expected = f'a JSON file {{"width", "height", "boxes": R x 4, "features": R x {self.region_size}}}'
        do = "GET /examples/0/regions gives one; photographs need a detector first: unimo prepare regions"
        what = "this model reads a detector's regions, not pixels"
        if len(data) > 32 * MAX_REGIONS * (self.region_size + 4):
            raise DataError(what, where=name, got=f"{len(data)} bytes", expected=expected, do=do)
        try:
            read = schemas.Regions.model_validate_json(data)
        except ValidationError as fault:
            first = fault.errors(include_url=False)[0]
            got = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
            raise DataError(what, where=name, got=got, expected=expected, do=do) from None
        lengths = {len(row) for row in (*read.features, *([read.whole] if read.whole else []))}
        if lengths != {self.region_size}:
            got = f"rows of {', '.join(map(str, sorted(lengths)[:3]))}"
            raise DataError("features of another detector", where=name, got=got, expected=expected, do=do)
        found = image_regions(read.features, read.boxes, read.width, read.height, where=name)
        found.features[0] = read.whole or found.features[0]
        return found

    async def rows(self, texts: Sequence[str], text_pairs: Sequence[str], images: Files) -> list[Row]:
        """Rows of a fine-tuned model's head: a text or two of them, an image, or both."""
        counts = {len(side) for side in (texts, text_pairs, images) if side}
        if len(counts) != 1:
            got = f"{len(texts)} texts, {len(text_pairs)} text_pairs, {len(images)} images"
            raise refused(422, "the rows do not fit together", got=got, expected="as many of each as there are rows")
        nothing = [None] * counts.pop()
        read: list[Any] = list(zip(texts, text_pairs)) if text_pairs else list(texts)
        return list(zip(read or nothing, await self.images(images) or nothing))


def columns(rows: list[Row]) -> tuple[list[Any] | None, list[Any] | None]:
    """The texts and the images of rows; None for a column of nothing. All rows have the same sides."""
    texts, images = map(list, zip(*rows))
    return None if texts[0] is None else texts, None if images[0] is None else images
