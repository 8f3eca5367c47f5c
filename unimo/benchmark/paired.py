"""A task from the model beside the same task from random weights: the verdict, and the difference it stands on.

one seed       the paired bootstrap over the items that both were scored on, as in `unimo compare`
several seeds  the mean of the seeds' paired differences; its interval holds the items' chance and the seeds' spread
               (`unimo.metrics.seeds`), and the verdict says whether it lies apart from 0
no item sums   of a score that is no function of sums over items (Pearson, Spearman), or of reports without them: the
               two 95 % intervals, which must lie apart (`unimo.metrics.verdict.verdict`); there is no difference then
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unimo.evaluation.item_sums import ItemSums, paired
from unimo.metrics.seeds import over_seeds
from unimo.metrics.verdict import AnyScore, Verdict, is_smaller_better, paired_verdict, verdict

Key = tuple[str, str]  # task and metric
Sums = Mapping[Key, ItemSums]


def against_random(
    key: Key, score: AnyScore, from_random: AnyScore, own: Sequence[Sums], random: Sequence[Sums]
) -> tuple[Verdict, dict[str, Any] | None]:
    """Verdict, and the difference (model minus random weights) as a score; None where items could not be paired.

    score: of the model. own, random: item sums of each seed, in the same order.
    """
    smaller = is_smaller_better(key[1])
    tests = [paired(one.get(key), other.get(key)) for one, other in zip(own, random)]
    found = [test for test in tests if test is not None]
    if not found or len(found) < len(tests):
        return verdict(score, from_random, smaller_is_better=smaller), None
    difference = over_seeds([test.difference.to_dict() for test in found])
    if len(found) == 1:
        return paired_verdict(found[0], smaller_is_better=smaller), difference
    return verdict(difference, {"value": 0.0, "low": 0.0, "high": 0.0}, smaller_is_better=smaller), difference
