"""How a dictionary of C codes is used: which entries, how evenly, how many never.

Legend: n samples · K codes chosen per sample · C codes in the dictionary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unimo.errors import DataError
from unimo.metrics.checks import finite_numbers

__all__ = ["code_use", "codebook_report", "dead_share", "perplexity"]


def code_use(indices: ArrayLike, codes: int) -> NDArray[np.int64]:
    """How often each code was chosen: indices (n, K) or any shape, values 0..C-1 -> counts (C,)."""
    chosen = np.asarray(indices).ravel()
    if chosen.size == 0:
        raise DataError("no code was chosen", got="an empty index array", expected="(samples, codes per sample)")
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.min() < 0 or chosen.max() >= codes:
        raise DataError(
            "an index is outside the dictionary",
            got=f"{chosen.dtype} {chosen.min()}..{chosen.max()}",
            expected=f"whole numbers 0..{codes - 1}",
        )
    return np.bincount(chosen, minlength=codes)


def perplexity(counts: ArrayLike) -> float:
    """exp of the entropy of use: as if so many codes were used evenly; from 1 (one code) to C (all alike)."""
    share = _counts(counts)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def dead_share(counts: ArrayLike) -> float:
    """Share of the dictionary that was never chosen."""
    return float((_counts(counts) == 0).mean())


def _counts(counts: ArrayLike) -> NDArray[np.float64]:
    values = finite_numbers(counts, "count")
    if not values.size or values.min() < 0 or not values.any():
        raise DataError(
            "counts of chosen codes", got=values.tolist()[:8], expected="numbers from 0, at least one above"
        )
    return values


def codebook_report(indices: ArrayLike, codes: int) -> dict[str, float | list[int]]:
    """{"perplexity", "dead_share", "codes", "choices", "use": counts of each code}."""
    counts = code_use(indices, codes)
    return {
        "perplexity": perplexity(counts),
        "dead_share": dead_share(counts),
        "codes": codes,
        "choices": int(counts.sum()),
        "use": counts.tolist(),
    }
