"""Writing: one word after the other, from a picture, a known text or both.

    n sequences · L words written so far

The plain form: every step encodes the whole prefix again. Text never looks forward (see the masks in
`unimo.model.attention`), so what is written is the same as with a cache of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unimo.batch import KNOWN, WRITTEN, Texts
from unimo.model.unimo2 import UNIMO2, Request, Towers

FIRST_POSITION = 2


@torch.no_grad()
def greedy(
    model: UNIMO2,
    images: Tensor | None,
    *,
    known: Sequence[np.ndarray] | None = None,
    cls: int,
    end: int,
    longest: int = 50,
    shortest: int = 0,
    blocked: Sequence[int] = (),
) -> list[list[int]]:
    """The most probable next word, until `end` or `longest` words. Returns n lists of ids without specials.

    images: (n, 1 + P, D) encoded pictures, or None. known: n framed texts read before writing, or None.
    shortest: `end` is not allowed before so many words. blocked: ids never written.
    """
    n = len(images) if images is not None else len(known or ())
    given = [np.asarray(ids, np.int64) for ids in known] if known is not None else [np.zeros(0, np.int64)] * n
    written: list[list[int]] = [[cls] for _ in range(n)]
    going = list(range(n))
    for length in range(longest):
        if not going:
            break
        texts = _pack([given[i] for i in going], [written[i] for i in going], model.words.word.weight.device)
        hidden = model.encode_texts(texts)
        some = (
            model.patches.cls.new_zeros(0, 1 + model.patches.grid**2, model.width) if images is None else images[going]
        )
        towers = Towers(some.to(hidden.dtype), hidden, texts)
        model.count_votes(towers)
        everyone = torch.arange(len(going), device=hidden.device)
        request = Request(None if images is None else everyone, everyone)
        fused = model.fuse(towers, {"write": request})["write"]
        logits = model.word_logits(fused.words(texts.offsets[1:] - 1, texts)).float()
        logits[:, [cls, *blocked]] = float("-inf")
        if length < shortest:
            logits[:, end] = float("-inf")
        for i, word in zip(list(going), logits.argmax(-1).tolist()):
            if word == end:
                going.remove(i)
            else:
                written[i].append(word)
    return [ids[1:] for ids in written]


def _pack(known: list[np.ndarray], written: list[list[int]], device: torch.device) -> Texts:
    """Known and written parts of each sequence side by side; the written part's positions start again at 2."""
    ids, positions, roles, offsets = [], [], [], [0]
    for before, after in zip(known, written):
        ids += [before, np.asarray(after, np.int64)]
        positions += [FIRST_POSITION + np.arange(len(before)), FIRST_POSITION + np.arange(len(after))]
        roles += [KNOWN] * len(before) + [WRITTEN] * len(after)
        offsets.append(offsets[-1] + len(before) + len(after))
    return Texts(
        ids=torch.from_numpy(np.concatenate(ids)).to(device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        roles=torch.tensor(roles, device=device),
        offsets=torch.tensor(offsets, device=device),
    )
