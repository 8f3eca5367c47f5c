"""Use of a dictionary of C codes: which entries, how evenly, how many never. K codes are chosen for each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError


def code_use(indices: ArrayLike, codes: int) -> NDArray[np.int64]:
    """How often each code was chosen: indices (n, K) or any shape, values 0..C-1 -> counts (C,)."""
    chosen = np.asarray(indices).ravel()
    if not chosen.size or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= codes:
        got = f"{chosen.dtype} {chosen.min()}..{chosen.max()}" if chosen.size else "no index"
        raise DataError("an index is outside the dictionary", got=got, expected=f"whole numbers 0..{codes - 1}")
    return np.bincount(chosen, minlength=codes)


def perplexity(counts: NDArray[np.int64]) -> float:
    """exp of the entropy of use: as if so many codes were used evenly; from 1 (one code) to C (all alike)."""
    fraction = counts[counts > 0] / counts.sum()
    return float(np.exp(-(fraction * np.log(fraction)).sum()))


def codebook_report(indices: ArrayLike, codes: int) -> dict[str, float | list[int]]:
    """{"perplexity", "dead_fraction": of codes never chosen, "codes", "choices", "use": counts of each code}."""
    counts = code_use(indices, codes)
    return {
        "perplexity": perplexity(counts),
        "dead_fraction": float((counts == 0).mean()),
        "codes": codes,
        "choices": int(counts.sum()),
        "use": counts.tolist(),
    }
