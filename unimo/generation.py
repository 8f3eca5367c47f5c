"""Models as writers: what `unimo.search` asks for the next word, from a picture, a known text or both.

    n sequences · r rows being written · V words

`Plain` encodes everything again for every word; `Cached` keeps keys and values. Text never looks forward (see the masks
in `unimo.model.attention`), so both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unimo.batch import KNOWN, WRITTEN, Texts
from unimo.model.memory import memories
from unimo.model.unimo2 import UNIMO2, Request, Towers

FIRST_POSITION = 2


class Plain:
    """The reference form. images: (n, 1 + P, D) encoded pictures, or None; known: n framed texts read before."""

    def __init__(self, model: UNIMO2, images: Tensor | None, known: Sequence[np.ndarray] | None = None):
        self.model, self.images = model, images
        self.n = len(images) if images is not None else len(known or ())
        self.known = [np.asarray(ids, np.int64) for ids in known] if known is not None else [_NOTHING] * self.n
        self.owner = torch.arange(self.n)
        self.written: list[list[int]] = [[] for _ in range(self.n)]

    @torch.no_grad()
    def advance(self, words: Tensor, parents: Tensor) -> Tensor:
        self.written = [[*self.written[row], word] for row, word in zip(parents.tolist(), words.tolist())]
        self.owner = self.owner[parents]
        model, owner = self.model, self.owner.tolist()
        texts = _pack([self.known[i] for i in owner], self.written, model.words.word.weight.device)
        pictures = _pictures(model, None if self.images is None else self.images[self.owner])
        towers = Towers(pictures, model.encode_texts(texts), texts)
        model.count_votes(towers)
        rows = torch.arange(len(owner), device=texts.ids.device)
        fused = model.fuse(towers, {"write": Request(None if self.images is None else rows, rows)})["write"]
        return model.word_logits(fused.words(texts.offsets[1:] - 1, texts)).float()


class Cached:
    """The fast form; the same arguments and answers as `Plain`."""

    @torch.no_grad()
    def __init__(self, model: UNIMO2, images: Tensor | None, known: Sequence[np.ndarray] | None = None):
        self.model, self.length = model, 0
        self.n = len(images) if images is not None else len(known or ())
        if not self.n:
            return
        device = model.words.word.weight.device
        texts = _pack([np.asarray(ids, np.int64) for ids in known or ()], [[]] * len(known or ()), device)
        in_text: list[tuple[Tensor, Tensor]] = []
        in_fused: list[tuple[Tensor, Tensor]] = []
        towers = Towers(_pictures(model, images), model.encode_texts(texts, in_text), texts)
        model.count_votes(towers)
        rows = torch.arange(self.n, device=device)
        request = Request(None if images is None else rows, None if known is None else rows)
        fused = model.fuse(towers, {"write": request}, in_fused)["write"]
        none = torch.zeros(self.n, dtype=torch.int64, device=device)
        starts, lengths = (none, none) if known is None else (texts.offsets[:-1], texts.lengths)
        self.text = memories(in_text, starts, lengths)
        self.grounded = memories(in_fused, fused.starts, fused.image_length + fused.ground_length + lengths)

    @torch.no_grad()
    def advance(self, words: Tensor, parents: Tensor) -> Tensor:
        model = self.model
        device = model.words.word.weight.device
        words, parents = words.to(device), parents.to(device)
        for memory in (*self.text, *self.grounded):
            memory.follow(parents)
        x = model.words(words, torch.full_like(words, FIRST_POSITION + self.length))
        self.length += 1
        x = model.grounded_encoder.step(model.text_encoder.step(x, self.text), self.grounded)
        return model.word_logits(x).float()


_NOTHING = np.zeros(0, np.int64)


def _pictures(model: UNIMO2, images: Tensor | None) -> Tensor:
    return model.patches.cls.new_zeros(0, 1 + model.patches.grid**2, model.width) if images is None else images


def _pack(known: Sequence[np.ndarray], written: Sequence[Sequence[int]], device: torch.device) -> Texts:
    """Known and written parts of each sequence side by side; the written part's positions start again at 2."""
    ids, positions, roles, offsets = [_NOTHING], [_NOTHING], [], [0]
    for before, after in zip(known, written):
        ids += [before, np.asarray(after, np.int64)]
        positions += [FIRST_POSITION + np.arange(len(before)), FIRST_POSITION + np.arange(len(after))]
        roles += [KNOWN] * len(before) + [WRITTEN] * len(after)
        offsets.append(offsets[-1] + len(before) + len(after))
    return Texts(
        ids=torch.from_numpy(np.concatenate(ids)).to(device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        roles=torch.tensor(roles, dtype=torch.int64, device=device),
        offsets=torch.tensor(offsets, device=device),
    )
