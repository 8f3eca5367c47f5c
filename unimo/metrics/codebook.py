"""Use of a dictionary of C codes: which entries, how evenly, how many never. K codes are chosen for each sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from unimo.errors import DataError


def codebook_report(indices: ArrayLike, codes: int) -> dict[str, float | list[int]]:
    """Use of the codes by indices (n, K) or any shape, values 0..C-1.

    {"perplexity": exp of the entropy of use, as if so many codes were used evenly; "dead_fraction": of codes never
    chosen; "codes"; "choices"; "use": counts of each code}
    """
    chosen = np.asarray(indices).ravel()
    if not chosen.size or chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= codes:
        got = f"{chosen.dtype} {chosen.min()}..{chosen.max()}" if chosen.size else "no index"
        raise DataError("an index is outside the dictionary", got=got, expected=f"whole numbers 0..{codes - 1}")
    use = np.bincount(chosen, minlength=codes)
    fraction = use[use > 0] / use.sum()
    return {
        "perplexity": float(np.exp(-(fraction * np.log(fraction)).sum())),
        "dead_fraction": float((use == 0).mean()),
        "codes": codes,
        "choices": int(use.sum()),
        "use": use.tolist(),
    }
