"""Ragged arrays: strings, or rows of varying length, as one array and the offsets of its pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Strings(Sequence[str]):
    """A list of strings held as two arrays, cheap to share between processes."""

    def __init__(self, blob: np.ndarray, offsets: np.ndarray):
        self.blob, self.offsets = blob, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = index % len(self)
        return self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")


def pack_strings(values: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """(blob of UTF-8 bytes, offsets of length n + 1). Names of files keep bytes that are not UTF-8."""
    encoded = [_encoded(value) for value in values]
    return np.frombuffer(b"".join(encoded), np.uint8), offsets_of([len(value) for value in encoded])


def _encoded(value: str) -> bytes:
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character out of a JSON escape
        return value.encode("utf-8", "backslashreplace")


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of the concatenated pieces begins, and the end: int64, length n + 1."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
