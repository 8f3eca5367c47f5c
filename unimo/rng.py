"""Random generators as pure functions of their names: none is carried along from draw to draw.

Masking, augmentation and sampling draw from `generator(seed, sample, epoch, purpose)`. Nothing has to be
saved to resume, and no worker, rank or extra evaluation changes another's draws.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*names: int | str) -> np.random.Generator:
    """The generator of these names: equal names, equal draws; different names, independent draws."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(*names, size=16), "little")))


def number(*names: int | str, bits: int = 63) -> int:
    """One random integer of `bits` bits, named like a generator (for torch.manual_seed and hashes)."""
    return int.from_bytes(digest(*names, size=8), "little") >> (64 - bits)


def digest(*names: int | str, size: int) -> bytes:
    """Each name with its type and length, so that ("a", "b") and ("ab",) differ."""
    text = "".join(f"{type(name).__name__[0]}{len(str(name))}:{name}" for name in names)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()
