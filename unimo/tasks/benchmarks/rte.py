"""RTE: does a sentence follow from another?

    source    spec unimo §6.2, unimo2 §6.4
    data      GLUE's RTE (2,490 / 277 pairs)
    command   unimo finetune rte --from RUN --train RTE/train.tsv --dev RTE/dev.tsv --out runs/rte \
              --seeds 5 --grid optimiser.rate=1e-5,2e-5,3e-5 --grid batch=16,32
    hardware  published: nothing; the recipe is that of MNLI
    expect    the papers report nothing

    published grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result. The released scripts run one
    process over eight GPUs and count its batch once, so that they end at an eighth of their schedule (spec unimo
    §6.1); this is the schedule that was meant.
"""

from __future__ import annotations

from unimo.tasks.released import adam
from unimo.tasks.settings import Finetuning, Reading, TaskData


def rte() -> Finetuning:
    return Finetuning(
        task="rte",
        kind="classification",
        data=TaskData(reader="rte"),
        read=Reading(longest=512),
        metrics=("accuracy",),
        batch=32,
        epochs=10.0,
        optimiser=adam(2e-5),
    )
