"""Raw images and strings through their towers, once.

N images · M texts · T packed tokens · R rows of an image · D width · C dictionary · K chosen entries of it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from unimo.batch import TEXT, Texts
from unimo.data.augment import resize
from unimo.data.images import load_rgb, to_rgb
from unimo.data.regions import ImageRegions, stack_regions
from unimo.decoding.decoder import pad_texts
from unimo.errors import DataError, UsageError
from unimo.machine import autocast_dtype
from unimo.model.unified import Towers, Unified
from unimo.model.unimo import UNIMO
from unimo.model.unimo2 import UNIMO2
from unimo.paths import check_name
from unimo.tokenizer import Tokenizer

ImageInput = str | Path | bytes | Image.Image | np.ndarray | Tensor | ImageRegions
BATCH_SIZE = 64  # inputs of a forward pass, by default


@dataclass
class EncodedImages:
    """Images after their tower: hidden (N, R, D), embedding (N, D), votes (N, C) or None.

    lengths: (N,) rows of each image that are there, or None: all R. (R = 1 + P patches, or 1 + regions.)
    """

    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def pick(self, numbers: Tensor) -> EncodedImages:
        """Some of the images, in the order of `numbers` (n,)."""
        votes, lengths = (None if part is None else part[numbers] for part in (self.votes, self.lengths))
        return EncodedImages(self.hidden[numbers], self.embedding[numbers], votes, lengths)


@dataclass
class EncodedTexts:
    """Texts after their tower: hidden (T, D) packed, embedding (M, D), votes (M, C) or None."""

    texts: Texts
    hidden: Tensor
    embedding: Tensor
    votes: Tensor | None

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, numbers: Tensor) -> EncodedTexts:
        """Some of the texts, in the order of `numbers` (n,)."""
        lengths = self.texts.lengths[numbers]
        ends = lengths.cumsum(0)
        shift = (self.texts.offsets[numbers] - (ends - lengths)).repeat_interleave(lengths)
        rows = torch.arange(len(shift), device=shift.device) + shift
        ids, positions, roles = (part[rows] for part in (self.texts.ids, self.texts.positions, self.texts.roles))
        votes = None if self.votes is None else self.votes[numbers]
        packed = Texts(ids, positions, roles, torch.cat([ends.new_zeros(1), ends]))
        return EncodedTexts(packed, self.hidden[rows], self.embedding[numbers], votes)


class Encoder:
    """A model in eval mode with its tokenizer and image transform; nothing of it changes between calls.

    dtype: of matrix products. side: pixels of a side of the square that UNIMO-2 sees; None for UNIMO, which sees
    regions. max_length: tokens of a text that are read, [CLS] and [SEP] included. frozen: the weights will not change
    any more (`unimo.inference.frozen`).
    """

    def __init__(self, model: Unified, *, precision: str = "auto", max_length: int | None = None, frozen: bool = False):
        self._made_of = model, precision, max_length, frozen
        self.model, self.tokenizer = model.eval(), Tokenizer.default()
        self.device = next(model.parameters()).device
        self.dtype = autocast_dtype(precision, self.device)
        if frozen and self.dtype != torch.float32:
            from unimo.inference.frozen import frozen as twin_of

            self.model = twin_of(model, self.dtype)
        self.side = model.pixels if isinstance(model, UNIMO2) else None
        self.max_length = max_length or model.words.position.num_embeddings - 2

    def __reduce__(self):  # for another process: packed weights do not travel
        model, precision, max_length, frozen = self._made_of
        return partial(Encoder, precision=precision, max_length=max_length, frozen=frozen), (model,)

    @property
    def batch_dependent(self) -> bool:
        """Whether texts of a pass change each other's answers beyond rounding: where padding votes, as released."""
        return isinstance(self.model, UNIMO2) and self.model.released.padding_votes

    def autocast(self) -> torch.autocast:
        """The precision of every forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def embed_images(self, images: Iterable[ImageInput], batch_size: int = BATCH_SIZE) -> Tensor:
        """(N, D): the embeddings alone, without the work and the memory that only other answers need."""
        return self._embed_images(images, batch_size) if self.side else self.encode_images(images, batch_size).embedding

    def embed_texts(self, texts: Iterable[str | np.ndarray], batch_size: int = BATCH_SIZE) -> Tensor:
        """(M, D): as `embed_images`."""
        return self._embed_texts(texts, batch_size) if self.side else self.encode_texts(texts, batch_size).embedding

    @torch.inference_mode()
    def encode_images(self, images: Iterable[ImageInput], batch_size: int = BATCH_SIZE) -> EncodedImages:
        """Runs the image tower once over every image, `batch_size` at a time."""
        hidden, embedding, votes, lengths = [], [], [], []
        for some in chunks(listed(images, "image"), batch_size):
            with self.autocast():
                towers = self.image_towers(some)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "image"))
            hidden.append(towers.images)
            lengths.append(towers.image_lengths)
            votes.append(towers.image_votes)
        if not hidden:
            raise UsageError("no images were given", expected="at least one")
        rows = max(part.shape[1] for part in hidden)
        states = torch.cat([F.pad(part, (0, 0, 0, rows - part.shape[1])) for part in hidden])
        return EncodedImages(states, torch.cat(embedding), _joined(votes), _joined(lengths))

    @torch.inference_mode()
    def encode_texts(self, texts: Iterable[str | np.ndarray], batch_size: int = BATCH_SIZE) -> EncodedTexts:
        """Runs the text tower once over every text; four texts take about as long as an image."""
        passes, order = self._passes(texts, batch_size)
        packs, hidden, embedding, votes = [], [], [], []
        for packed in passes:
            packs.append(packed)
            with self.autocast():
                towers = Towers(self.model.no_images(), self.model.encode_texts(packed), packed)
                self.model.count_votes(towers)
                embedding.append(self.model.embed(towers, "text"))
            hidden.append(towers.words)
            votes.append(towers.text_votes)
        encoded = EncodedTexts(_end_to_end(packs), torch.cat(hidden), torch.cat(embedding), _joined(votes))
        return encoded if order is None else encoded.pick(order)

    @torch.inference_mode()
    def _embed_images(self, images: Iterable[ImageInput], batch_size: int) -> Tensor:
        assert isinstance(self.model, UNIMO2)
        found = []
        for some in chunks(listed(images, "image"), batch_size):
            with self.autocast():
                cls = self.model.encode_images(self.pixels_of(some), only_cls=True)
                found.append(self.model.embed_cls(cls, "image"))
        if not found:
            raise UsageError("no images were given", expected="at least one")
        return torch.cat(found)

    @torch.inference_mode()
    def _embed_texts(self, texts: Iterable[str | np.ndarray], batch_size: int) -> Tensor:
        assert isinstance(self.model, UNIMO2)
        passes, order = self._passes(texts, batch_size)
        found = []
        for packed in passes:
            with self.autocast():
                found.append(self.model.embed_cls(self.model.encode_texts(packed, only_cls=True), "text"))
        return torch.cat(found) if order is None else torch.cat(found)[order]

    def _passes(self, texts: Iterable[str | np.ndarray], batch_size: int) -> tuple[Iterator[Texts], Tensor | None]:
        """Packed texts of a pass each, and the order in which their answers are those of `texts`, or None: as they are.

        Texts of a pass are of similar length, unless its padding votes: then they are as they were given.
        """
        rows = [self.frame(text) for text in listed(texts, "text")]
        if not rows:
            raise UsageError("no texts were given", expected="at least one")
        size = 1 if check_count("batch_size", batch_size) == 1 else 4 * batch_size
        if size == 1 or len(rows) <= size or self.batch_dependent:
            return map(self.pack, chunks(rows, size)), None
        order = np.argsort([len(row) for row in rows], kind="stable")
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        return map(self.pack, chunks((rows[i] for i in order), size)), back

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
        with self.autocast():
            if images is not None:
                voters.append(dictionary.positions_of(images.hidden[:, 1:], "image").flatten(0, 1))
            if texts is not None:
                voters.append(dictionary.positions_of(texts.hidden, "text")[self.model.text_voters(texts.texts)])
        return torch.cat([dictionary.nearest(some) for some in torch.cat(voters).split(8192)]).cpu().numpy()

    def ids(self, text: str | np.ndarray) -> np.ndarray:
        """The ids of a string, without special tokens; ids as they are."""
        if isinstance(text, str):
            text = np.asarray(self.tokenizer.encode(text, max_bytes=8 * self.max_length))
        if not isinstance(text, np.ndarray):
            got = f"{type(text).__name__} {text!r}"[:80]
            raise UsageError("not a text", got=got, expected="a string, or an array of token ids")
        rows = self.model.words.word.num_embeddings
        if text.size and (text.ndim != 1 or text.dtype.kind not in "iu" or text.min() < 0 or text.max() >= rows):
            got = f"an array {text.shape} of {text.dtype}, from {text.min()} to {text.max()}"
            raise UsageError("not token ids", got=got, expected=f"an array (n,) of integers from 0 to {rows - 1}")
        return text.astype(np.int64)

    def frame(self, text: str | np.ndarray) -> np.ndarray:
        """[CLS] ids [SEP] of a string or of bare ids, cut to what the position table holds."""
        kept = self.ids(text)[: self.max_length - 2]
        return np.concatenate([[self.tokenizer.cls], kept, [self.tokenizer.sep]])

    def pack(self, rows: Sequence[np.ndarray]) -> Texts:
        """Framed rows of ids as one packed row; padded to the longest where released padding votes."""
        lengths = [len(row) for row in rows]
        parts = np.concatenate(rows), np.concatenate([2 + np.arange(n) for n in lengths]), np.cumsum([0, *lengths])
        ids, positions, offsets = (torch.from_numpy(part).to(self.device) for part in parts)
        texts = Texts(ids, positions, torch.full_like(ids, TEXT), offsets)
        return pad_texts(texts, self.tokenizer.pad)[0] if self.batch_dependent else texts

    def no_towers(self) -> Towers:
        """Towers that no image and no text has passed."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        texts = Texts(nothing, nothing, nothing, nothing.new_zeros(1))
        return Towers(self.model.no_images(), torch.zeros(0, self.model.width, device=self.device), texts)

    def image_towers(self, images: Sequence[ImageInput]) -> Towers:
        """The image tower over one batch."""
        towers = self.no_towers()
        regions = [image for image in images if isinstance(image, ImageRegions)]
        if isinstance(self.model, UNIMO):
            if len(regions) < len(images):
                raise UsageError("UNIMO does not see pixels", expected="regions of a detector for every image")
            stacked = stack_regions(regions).to(self.device)
            towers.images, towers.image_lengths = self.model.encode_images(stacked), stacked.lengths
            return towers
        assert isinstance(self.model, UNIMO2)
        towers.images = self.model.encode_images(self.pixels_of(images))
        return towers

    def pixels_of(self, images: Sequence[ImageInput]) -> Tensor:
        """(N, 3, S, S) uint8."""
        if any(isinstance(image, ImageRegions) for image in images):
            raise UsageError("UNIMO-2 sees pixels", got="regions of a detector", expected="images")
        assert self.side is not None
        arrays = [resize(open_image(image), self.side) for image in images]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.device)


def open_image(image: ImageInput) -> Image.Image:
    """An upright RGB image of a path, the bytes of a file, a PIL image, or an array or tensor of pixels.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8; tensors (3, H, W), uint8 or floats from 0 to 1, as of
    torchvision. UsageError for other ones, DataError for an image that cannot be decoded.
    """
    if isinstance(image, Tensor):
        image = _pixels(image)
    if isinstance(image, np.ndarray):
        image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        flat = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not flat or not image.size:
            turned = "array.transpose(1, 2, 0)" if image.ndim == 3 and len(image) == 3 else None
            do = turned if image.dtype.kind != "f" else "(255 * array).astype(np.uint8), of values from 0 to 1"
            raise _not_an_image(f"an array {image.shape} of {image.dtype}", do)
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(ImageOps.exif_transpose(image))  # as `load_rgb` reads it from its file
        except Exception as fault:  # opened lazily, it may turn out to be broken in a dozen ways
            where, got = getattr(image, "filename", None) or None, f"{type(fault).__name__}: {fault}"
            raise DataError("cannot decode image", where=where, got=got, expected="a whole image") from fault
    if not isinstance(image, (str, Path, bytes)):
        raise _not_an_image(type(image).__name__, "PIL.Image.open(file)" if hasattr(image, "read") else None)
    if isinstance(image, str):
        check_name(image)
    return load_rgb(Path(image) if isinstance(image, str) else image)


def _pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3) uint8."""
    got, do = f"a tensor {tuple(image.shape)} of {image.dtype}", None
    bounded = image.dtype == torch.uint8
    if image.is_floating_point() and image.numel():
        low, high = image.aminmax()
        bounded = bool((low >= 0) & (high <= 1))  # false of NaN
        if not bounded:
            got += f", from {low:.3g} to {high:.3g}"
            do = "give pixels as they are: resizing and normalisation are the model's own"
    if image.ndim != 3 or len(image) != 3 or not bounded:
        raise _not_an_image(got, do)
    whole = image if image.dtype == torch.uint8 else (255 * image.float()).round().to(torch.uint8)
    return whole.detach().permute(1, 2, 0).cpu().numpy()


def _not_an_image(got: str, do: str | None = None) -> UsageError:
    expected = "a path, bytes, a PIL image, an array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or 0 to 1"
    return UsageError("not an image", got=got, expected=expected, do=do)


def listed(given: Any, what: str) -> Any:
    """`given`, if it is several images or texts in an order: a string's characters would each be taken for one."""
    single = isinstance(given, (str, bytes, Path, Image.Image, ImageRegions))
    pixels = isinstance(given, (np.ndarray, Tensor)) and what == "image" and given.ndim in (2, 3)
    if single or pixels:
        got = f"{type(given).__name__} {tuple(given.shape) if pixels else repr(given)}"[:80]
        raise UsageError(f"a single {what}", got=got, expected=f"a list of {what}s", do="put it into a list: [...]")
    if not isinstance(given, Iterable) or isinstance(given, (Mapping, Set)):
        got = f"{type(given).__name__} {given!r}"[:80]
        raise UsageError(f"no list of {what}s", got=got, expected="a list, a tuple or another sequence")
    return given


def check_count(name: str, given: Any, at_least: int = 1) -> int:
    """UsageError for what is no whole number, or too small. name: of the argument."""
    if not isinstance(given, (int, np.integer)) or given < at_least:
        raise UsageError("not such a number", where=name, got=repr(given)[:80], expected=f"{at_least} or more")
    return int(given)


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """So many items at a time; fewer at the end."""
    check_count("batch_size", size)
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


def _end_to_end(packs: Sequence[Texts]) -> Texts:
    """Packed rows one after the other."""
    ids, positions, roles = (torch.cat([getattr(one, name) for one in packs]) for name in ("ids", "positions", "roles"))
    lengths = torch.cat([one.lengths for one in packs])
    return Texts(ids, positions, roles, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
