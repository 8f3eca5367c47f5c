"""A model with its tokenizer and image pipeline: raw images and strings through their towers, once.

N images · M texts · D width · K chosen entries of the dictionary
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from unimo.batch import TEXT, Texts, pad_texts
from unimo.data.augment import resize
from unimo.data.images import load_rgb, to_rgb
from unimo.data.regions import ImageRegions, stack_regions
from unimo.errors import DataError, UsageError
from unimo.inference.encoded import EncodedImages, EncodedTexts, end_to_end
from unimo.machine import autocast_dtype
from unimo.model.unified import Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import Tokenizer

ImageInput = str | Path | bytes | Image.Image | np.ndarray | ImageRegions


class Encoder:
    """What every part of `unimo.inference.Pipeline` stands on.

    batch_size: inputs of a pass. Answers do not depend on it but for rounding; with 1 they do not depend on each other
    to the last bit.
    """

    def __init__(
        self,
        model: Unified,
        *,
        precision: str = "auto",
        batch_size: int = 64,
        max_length: int | None = None,
        facts: Any = None,
    ):
        self.model, self.tokenizer, self.batch_size = model.eval(), Tokenizer.default(), batch_size
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(precision, self.device)
        self.side = model.pixels if isinstance(model, UNIMO2) else None
        self.sees_regions = isinstance(model, UNIMO)
        self.max_length = max_length or model.words.position.num_embeddings - 2
        self.facts = facts or {}

    @property
    def company_matters(self) -> bool:
        """Whether texts of a pass change each other's answers beyond rounding: where padding votes, as released."""
        return isinstance(self.model, UNIMO2) and self.model.released.padding_votes

    @torch.inference_mode()
    def encode_images(self, images: Iterable[ImageInput]) -> EncodedImages:
        """Runs the image tower once over every image (path, bytes, PIL image or (H, W, 3) uint8 array).

        UNIMO sees regions: it takes what `unimo.data.regions.image_regions` makes of a detector's answer.
        """
        hidden, embedding, votes, lengths = [], [], [], []
        for some in chunks(several(images, "image"), self.batch_size):
            with self._autocast():
                towers = self._see(some)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "image"))
            hidden.append(towers.images)
            lengths.append(towers.image_lengths)
            votes.append(towers.image_votes)
        if not hidden:
            raise UsageError("no images were given", expected="at least one")
        max_length = max(part.shape[1] for part in hidden)
        states = torch.cat([F.pad(part, (0, 0, 0, max_length - part.shape[1])) for part in hidden])
        return EncodedImages(states, torch.cat(embedding), _joined(votes), _joined(lengths))

    @torch.inference_mode()
    def encode_texts(self, texts: Iterable[str | np.ndarray]) -> EncodedTexts:
        """Runs the text tower once over every text (a string, or token ids without specials); long ones are cut."""
        rows = [self.frame(text) for text in several(texts, "text")]
        if not rows:
            raise UsageError("no texts were given", expected="at least one")
        packs, hidden, embedding, votes = [], [], [], []
        for some in chunks(rows, 4 * self.batch_size if self.batch_size > 1 else 1):
            packs.append(packed := self.pack(some))
            with self._autocast():
                towers = Towers(self._no_images(), self.model.encode_texts(packed), packed)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "text"))
            hidden.append(towers.words)
            votes.append(towers.text_votes)
        return EncodedTexts(end_to_end(packs), torch.cat(hidden), torch.cat(embedding), _joined(votes))

    @overload
    def encode_image(self, images: Iterable[ImageInput]) -> np.ndarray: ...
    @overload
    def encode_image(self, images: Iterable[ImageInput], *, convert_to_tensor: Literal[True]) -> Tensor: ...
    def encode_image(self, images: Iterable[ImageInput], *, convert_to_tensor: bool = False) -> np.ndarray | Tensor:
        """(N, D) float32 embeddings, L2-normalised; images and texts share this space. A tensor stays on the device."""
        embedding = self.encode_images(images).embedding
        return embedding if convert_to_tensor else embedding.cpu().numpy()

    @overload
    def encode_text(self, texts: Iterable[str]) -> np.ndarray: ...
    @overload
    def encode_text(self, texts: Iterable[str], *, convert_to_tensor: Literal[True]) -> Tensor: ...
    def encode_text(self, texts: Iterable[str], *, convert_to_tensor: bool = False) -> np.ndarray | Tensor:
        """(M, D) float32 embeddings, L2-normalised. A tensor stays on the device."""
        embedding = self.encode_texts(texts).embedding
        return embedding if convert_to_tensor else embedding.cpu().numpy()

    def similarity(self, images: Iterable[ImageInput], texts: Iterable[str]) -> np.ndarray:
        """(N, M) cosines of every image with every text."""
        return self.encode_image(images) @ self.encode_text(texts).T

    @torch.inference_mode()
    def codes(self, images: EncodedImages | None, texts: EncodedTexts | None) -> np.ndarray | None:
        """Entries chosen by images, by texts, or by image i beside text i; None without a dictionary.

        (n, K) the K most voted of each; with the method "normal" (voters,) the nearest of every voting position.
        """
        dictionary = self.model.dictionary
        if dictionary is None:
            return None
        assert isinstance(self.model, UNIMO2)
        if dictionary.method == "topk":
            votes = [side.votes for side in (images, texts) if side is not None and side.votes is not None]
            return dictionary.choose(torch.stack(votes).sum(0)).cpu().numpy()
        voters = []
        if images is not None:
            voters.append(dictionary.positions_of(images.hidden[:, 1:], "image").flatten(0, 1))
        if texts is not None:
            voters.append(dictionary.positions_of(texts.hidden, "text")[self.model.text_voters(texts.texts)])
        return torch.cat([dictionary.nearest(some) for some in torch.cat(voters).split(8192)]).cpu().numpy()

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def frame(self, text: str | np.ndarray) -> np.ndarray:
        """[CLS] ids [SEP] of a string or of bare ids, cut to what the position table holds."""
        if not isinstance(text, (str, np.ndarray)):
            got = f"{type(text).__name__} {text!r}"[:80]
            raise UsageError("not a text", got=got, expected="a string, or an array of token ids")
        if isinstance(text, str):
            text = np.asarray(self.tokenizer.encode(text, max_bytes=8 * self.max_length), np.int64)
        kept = np.asarray(text, np.int64)[: self.max_length - 2]
        return np.concatenate([[self.tokenizer.cls], kept, [self.tokenizer.sep]])

    def pack(self, rows: Sequence[np.ndarray], role: int = TEXT) -> Texts:
        """Framed rows of ids as one packed row; padded to the longest where released padding votes."""
        offsets = np.cumsum([0] + [len(row) for row in rows])
        positions = np.concatenate([2 + np.arange(len(row)) for row in rows])
        ids = torch.from_numpy(np.concatenate(rows)).to(self.device)
        texts = Texts(
            ids,
            torch.from_numpy(positions).to(self.device),
            torch.full_like(ids, role),
            torch.from_numpy(offsets).to(self.device),
        )
        if self.company_matters:
            return pad_texts(texts, self.tokenizer.pad)[0]
        return texts

    def _see(self, images: Sequence[ImageInput]) -> Towers:
        """The image tower over one batch."""
        regions = [image for image in images if isinstance(image, ImageRegions)]
        if isinstance(self.model, UNIMO):
            if len(regions) < len(images):
                raise UsageError("UNIMO does not see pixels", expected="regions of a detector for every image")
            stacked = stack_regions(regions).to(self.device)
            rows = self.model.encode_images(stacked)
            return Towers(rows, self._no_words(), self._no_texts(), image_lengths=stacked.lengths)
        assert isinstance(self.model, UNIMO2) and self.side is not None
        if regions:
            raise UsageError("UNIMO-2 sees pixels", got="regions of a detector", expected="images")
        arrays = [resize(_open(image), self.side) for image in images]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.device)
        return Towers(self.model.encode_images(pixels), self._no_words(), self._no_texts())

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _no_images(self) -> Tensor:
        return self.model.no_images()

    def _no_words(self) -> Tensor:
        return torch.zeros(0, self.model.width, device=self.device)

    def _no_texts(self) -> Texts:
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        return Texts(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64, device=self.device))


def _open(image: ImageInput) -> Image.Image:
    assert not isinstance(image, ImageRegions)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            got = f"an array {image.shape} of {image.dtype}"
            raise UsageError("not an image", got=got, expected="an array (H, W, 3) of uint8")
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(ImageOps.exif_transpose(image))  # as `load_rgb` reads it from its file
        except Exception as fault:  # opened lazily, it may turn out to be broken in a dozen ways
            where, got = getattr(image, "filename", None) or None, f"{type(fault).__name__}: {fault}"
            raise DataError("cannot decode image", where=where, got=got, expected="a whole image") from fault
    return load_rgb(Path(image) if isinstance(image, str) else image)


def several(given: Any, what: str) -> Any:
    """`given`, if it is not a single image or text: the characters of a string would each be taken for one."""
    if isinstance(given, (str, bytes, Path, Image.Image, ImageRegions)):
        got = f"{type(given).__name__} {given!r}"[:80]
        raise UsageError(f"a single {what}", got=got, expected=f"a list of {what}s", do="put it into a list: [...]")
    return given


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """So many items at a time; fewer at the end."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _joined(votes: list[Tensor | None]) -> Tensor | None:
    return None if votes[0] is None else torch.cat([v for v in votes if v is not None])
