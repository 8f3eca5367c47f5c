"""MRPC: do two sentences of news say the same?

    source    spec unimo §6.2, unimo2 §6.4
    data      GLUE's MRPC (3,668 / 408 pairs)
    command   unimo finetune mrpc --from RUN --train MRPC/train.tsv --dev MRPC/dev.tsv --out runs/mrpc \
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


def mrpc() -> Finetuning:
    return Finetuning(
        task="mrpc",
        kind="classification",
        data=TaskData(reader="mrpc"),
        read=Reading(longest=512, positive="1"),
        metrics=("accuracy", "f1"),
        batch=32,
        epochs=10.0,
        optimiser=adam(2e-5),
    )
