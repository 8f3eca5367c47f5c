"""What a form brings, checked and made into what the model takes. Each refusal names the field.

S side of the model's images
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import File, Form, UploadFile

from unimo.data.augment import resize
from unimo.data.images import load_rgb
from unimo.errors import DataError
from unimo.serve.guard import Refused, refused
from unimo.serve.limits import Limits

Files = Annotated[list[UploadFile] | None, File(description="encoded images: JPEG, PNG, WebP and others")]
OneFile = Annotated[UploadFile | None, File(description="an encoded image")]
Strings = Annotated[list[str] | None, Form()]
OneString = Annotated[str | None, Form()]
Row = tuple[Any, Any]  # a text or its two segments or None, and an image or None


class Inputs:
    """Reads forms for a model whose images have `side` pixels; two images at a time are decoded."""

    def __init__(self, limits: Limits, side: int):
        self.limits, self.side = limits, side
        self._decoders = asyncio.Semaphore(2)  # so many of the largest images are in memory at once

    async def images(self, files: Sequence[UploadFile | None] | None, *, at_least: int = 1) -> list[np.ndarray]:
        """(S, S, 3) uint8 of each file, as the model's image tower sees it; absent ones are passed over."""
        given = [file for file in files or () if file is not None]
        self.few_enough("images", len(given), self.limits.max_images)
        if len(given) < at_least:
            raise refused(422, "no image", where="images", expected="at least one file", do="curl -F images=@photo.jpg")
        return [await self._image(file) for file in given]

    async def _image(self, file: UploadFile) -> np.ndarray:
        async with self._decoders:
            data = await file.read()
            try:
                return await asyncio.to_thread(self._decoded, data, file.filename or "image")
            except DataError as error:
                raise Refused(422, error) from None

    def _decoded(self, data: bytes, name: str) -> np.ndarray:
        return resize(load_rgb(data, max_pixels=self.limits.max_pixels, where=name), self.side)

    def texts(self, given: Sequence[str | None] | None, where: str, *, at_least: int = 0) -> list[str]:
        """The texts that are there, none of them too long or half a character."""
        texts, most = [text for text in given or () if text is not None], self.limits.max_characters
        self.few_enough(where, len(texts), self.limits.max_texts)
        if len(texts) < at_least:
            raise refused(422, "no text", where=where, expected="at least one", do=f'curl -F {where}="a red circle"')
        for text in texts:
            if len(text) > most:
                got, do = f"{len(text)} characters", "index long documents and search them: unimo index"
                raise refused(422, "a text is too long", where=where, got=got, expected=f"at most {most}", do=do)
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise refused(422, "not a text", where=where, got="half a surrogate pair", expected="Unicode, as UTF-8")
        return texts

    async def rows(self, texts: Strings, text_pairs: Strings, images: Files) -> list[Row]:
        """Rows of a fine-tuned model's head: a text or two of them, an image, or both."""
        first, second = self.texts(texts, "texts"), self.texts(text_pairs, "text_pairs")
        seen = await self.images(images, at_least=0)
        counts = {len(side) for side in (first, second, seen) if side}
        if len(counts) != 1:
            got = f"{len(first)} texts, {len(second)} text_pairs, {len(seen)} images"
            raise refused(422, "the rows do not fit together", got=got, expected="as many of each as there are rows")
        nothing = [None] * counts.pop()
        read: list[Any] = [list(pair) for pair in zip(first, second)] if second else list(first)
        return list(zip(read or nothing, seen or nothing))

    def few_enough(self, where: str, got: int, most: int) -> None:
        if got > most:
            do = "send several requests"
            raise refused(422, "too many in one request", where=where, got=got, expected=f"at most {most}", do=do)


def columns(rows: list[Row]) -> tuple[list[Any] | None, list[Any] | None]:
    """The texts and the images of rows; None for a column of nothing. All rows have the same sides."""
    texts, images = map(list, zip(*rows))
    return None if texts[0] is None else texts, None if images[0] is None else images
