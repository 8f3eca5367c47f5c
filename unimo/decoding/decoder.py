"""Models as writers: what `unimo.decoding.beam_search` asks for the next word, from an image, a known text or both.

    n sequences · r rows being written · R image rows · V words · D width

`UncachedDecoder` encodes everything again for every word; `CachedDecoder` keeps keys and values, of many rows about one
sequence only once. Text never looks forward (see the masks in `unimo.model.attention`), so both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimo.batch import KNOWN, PADDING, WRITTEN, Texts
from unimo.data.records import Record
from unimo.errors import UsageError
from unimo.model.kv_cache import Rows, caches
from unimo.model.unified import Fused, Request, Towers, Unified
from unimo.model.unimo2 import UNIMO2
from unimo.tokenizer import FIRST_POSITION, Tokenizer

WORD_ROWS = 256  # rows the vocabulary is multiplied with at once: 50 MB of logits
Known = Sequence[np.ndarray | Record]


@dataclass(frozen=True)
class Given:
    """What n sequences are written from; at least one of the two.

    images: (n, R, D) images after their tower, or None. image_lengths: (n,) rows of each that are there; None: all.
    known: n texts read before, framed ids or records, or None. continuous: number positions on from the known text,
    not again from 2.
    """

    images: Tensor | None = None
    known: Known | None = None
    image_lengths: Tensor | None = None
    continuous: bool = False

    def __len__(self) -> int:
        return len(self.images) if self.images is not None else len(self.known or ())

    def sources(self) -> list[Record]:
        """The known text of every sequence; an empty one where there is none."""
        if self.known is None:
            return [_as_record(_NOTHING)] * len(self)
        found = [_as_record(one) for one in self.known]
        if len({one.speakers is None for one in found}) > 1:
            raise UsageError("dialogues among plain texts", expected="records all with speakers, or all without")
        return found


class UncachedDecoder:
    """The reference form of a `unimo.decoding.beam_search.Writer`."""

    def __init__(self, model: Unified, given: Given):
        self.model, self.given, self.n = model, given, len(given)
        self.known = given.sources()
        self.owner = torch.arange(self.n)
        self.written: list[list[int]] = [[] for _ in range(self.n)]

    @torch.no_grad()
    def advance(self, words: Tensor, parents: Tensor) -> Tensor:
        self.written = [[*self.written[row], word] for row, word in zip(parents.tolist(), words.tolist())]
        self.owner = self.owner[parents]
        model, given, owner = self.model, self.given, self.owner
        device = model.words.word.weight.device
        texts = _pack([self.known[i] for i in owner.tolist()], self.written, given.continuous, device)
        images = None if given.images is None else given.images[owner]
        lengths = None if given.image_lengths is None else given.image_lengths[owner]
        fused = _fuse(model, texts, images, lengths)
        return model.word_logits(fused.words(texts.offsets[1:] - 1, texts)).float()


@torch.no_grad()
def log_likelihood(model: Unified, given: Given, written: Sequence[Sequence[int]]) -> Tensor:
    """(n,) log P(written | given) in nats: what a decoder multiplies up word by word, in one pass (teacher forcing).

    written: n texts from [CLS] to the token that ends them. The longer a text, the less likely it is.
    """
    device = model.words.word.weight.device
    texts = _pack(given.sources(), written, given.continuous, device)
    fused = _fuse(model, texts, given.images, given.image_lengths)
    last = torch.zeros_like(texts.ids, dtype=torch.bool).index_fill_(0, texts.offsets[1:] - 1, True)
    places = torch.nonzero((texts.roles == WRITTEN) & ~last)[:, 0]
    logs = []
    for some in places.split(WORD_ROWS):
        logs.append(model.word_log_probabilities(fused.words(some, texts), texts.ids[some + 1]))
    return torch.zeros(len(given), device=device).index_add_(0, texts.owner[places], torch.cat(logs))


class CachedDecoder:
    """The fast form; the same arguments and answers as `UncachedDecoder`.

    Except that with `Released.padding_read` the padding of known texts is read, which only this form, like the
    published decoder, can do.
    """

    @torch.no_grad()
    def __init__(self, model: Unified, given: Given):
        self.model, self.n, self.length = model, len(given), 0
        if not self.n:
            return
        device = model.words.word.weight.device
        known = given.sources() if given.known is not None else []
        self.dialogue = bool(known) and known[0].speakers is not None
        self.first = torch.tensor([_first_position(one, given.continuous) for one in given.sources()], device=device)
        texts = _pack(known, [[]] * len(known), given.continuous, device)
        lengths = texts.lengths if known else torch.zeros(self.n, dtype=torch.int64, device=device)
        if known and isinstance(model, UNIMO2) and model.released.padding_read:
            texts = pad_texts(texts, Tokenizer.pad)[0]
        in_text: list[tuple[Tensor, Tensor]] = []
        in_fused: list[tuple[Tensor, Tensor]] = []
        images = model.no_images() if given.images is None else given.images
        towers = Towers(images, model.encode_texts(texts, in_text), texts, image_lengths=given.image_lengths)
        model.count_votes(towers)
        rows = torch.arange(self.n, device=device)
        request = Request(None if given.images is None else rows, rows if known else None)
        fused = model.fuse(towers, {"write": request}, in_fused)["write"]
        seen = (fused.image_length + fused.ground_length).to(device) + (texts.lengths if known else 0)
        heads = model.fuser.heads
        self.rows = Rows(self.n, device)
        self.in_text = caches(in_text, texts.offsets[:-1] if known else lengths, lengths, self.rows, heads)
        self.in_fused = caches(in_fused, fused.starts.to(device), seen, self.rows, heads)

    @torch.no_grad()
    def advance(self, words: Tensor, parents: Tensor) -> Tensor:
        model, device = self.model, self.model.words.word.weight.device
        words, parents = words.to(device), parents.to(device)
        if not torch.equal(parents, torch.arange(len(self.first), device=device)):
            live = self.rows.follow(parents)
            for cache in (*self.in_text, *self.in_fused):
                cache.follow(parents, live)
            self.first = self.first[parents]
        nobody = torch.zeros_like(words) if self.dialogue else None  # the answer's speaker and turn are both 0
        x = model.words(words, self.first + self.length, nobody, nobody)
        self.length += 1
        return model.word_logits(model.step(x, self.in_text, self.in_fused)).float()


def _fuse(model: Unified, texts: Texts, images: Tensor | None, image_lengths: Tensor | None) -> Fused:
    """Every text beside its image, or alone."""
    seen = model.no_images() if images is None else images
    towers = Towers(seen, model.encode_texts(texts), texts, image_lengths=image_lengths)
    model.count_votes(towers)
    rows = torch.arange(len(texts), device=texts.ids.device)
    return model.fuse(towers, {"write": Request(None if images is None else rows, rows)})["write"]


_NOTHING = np.zeros(0, np.int64)


def _as_record(known: np.ndarray | Record) -> Record:
    """The source side of a record, or bare ids with positions from 2 on."""
    if not isinstance(known, Record):
        ids = np.asarray(known, np.int64)
        return Record(ids, FIRST_POSITION + np.arange(len(ids)), len(ids))
    source = slice(0, known.target_begins)
    speakers, turns = (None if part is None else part[source] for part in (known.speakers, known.turns))
    return Record(known.ids[source], known.positions[source], known.target_begins, speakers, turns)


def _first_position(known: Record, continuous: bool) -> int:
    return int(known.positions[-1]) + 1 if continuous and len(known.ids) else FIRST_POSITION


def _pack(known: Sequence[Record], written: Sequence[Sequence[int]], continuous: bool, device: torch.device) -> Texts:
    """Known and written parts of each sequence side by side."""
    parts: dict[str, list[np.ndarray]] = {
        name: [_NOTHING] for name in ("ids", "positions", "roles", "speakers", "turns")
    }
    offsets, dialogue = [0], any(one.speakers is not None for one in known)
    for before, after in zip(known, written):
        n, new = len(before.ids), len(after)
        answer = np.zeros(new, np.int64)
        first = _first_position(before, continuous)
        parts["ids"] += [before.ids, np.asarray(after, np.int64)]
        parts["positions"] += [before.positions, first + np.arange(new)]
        parts["roles"] += [np.full(n, KNOWN), np.full(new, WRITTEN)]
        if dialogue:
            parts["speakers"] += [before.speakers, answer]  # type: ignore[list-item]
            parts["turns"] += [before.turns, answer]  # type: ignore[list-item]
        offsets.append(offsets[-1] + n + new)
    rows = {name: torch.from_numpy(np.concatenate(part).astype(np.int64)).to(device) for name, part in parts.items()}
    if not dialogue:
        rows["speakers"] = rows["turns"] = None  # type: ignore[assignment]
    return Texts(offsets=torch.tensor(offsets, device=device), **rows)


def pad_texts(texts: Texts, pad: int) -> tuple[Texts, Tensor]:
    """Every text filled up to the longest with tokens of role PADDING, at position 1, that see and are seen by nothing.

    Packed rows need no padding; the published graph has it, and some of its answers depend on it. Also returns (T,)
    where each token went.
    """
    lengths = texts.lengths
    max_length = int(lengths.max()) if len(texts) else 0
    rows = torch.arange(len(texts.ids), device=texts.ids.device)
    rows = rows + (texts.owner * max_length - texts.offsets[texts.owner])
    n = len(texts) * max_length

    def spread(values: Tensor | None, fill: int) -> Tensor | None:
        if values is None:
            return None
        return values.new_full((n, *values.shape[1:]), fill).index_copy(0, rows, values)

    filled = {
        "ids": spread(texts.ids, pad),
        "positions": spread(texts.positions, 1),
        "roles": spread(texts.roles, PADDING),
        "offsets": max_length * torch.arange(len(texts) + 1, device=rows.device),
    }
    filled |= {name: spread(getattr(texts, name), 0) for name in ("speakers", "turns", "delta")}
    return Texts(**filled), rows  # type: ignore[arg-type]
