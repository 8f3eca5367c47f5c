"""CoLA: is a sentence of English well formed?

    source    spec unimo §6.2, unimo2 §6.4
    data      GLUE's CoLA (8,551 / 1,043 sentences)
    command   unimo finetune cola --from RUN --train CoLA/train.tsv --dev CoLA/dev.tsv --out runs/cola \
              --seeds 5 --grid optimiser.rate=1e-5,2e-5,3e-5 --grid batch=16,32
    hardware  published: 4 V100, 2 hours for base and the whole grid
    expect    Matthews correlation on dev, published: UNIMO 65.4 base, 68.5 large; UNIMO-2 62.1

    published grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result. The released scripts run one
    process over eight GPUs and count its batch once, so that they end at an eighth of their schedule (spec unimo
    §6.1); this is the schedule that was meant.
"""

from __future__ import annotations

from unimo.tasks.released import adam
from unimo.tasks.settings import Finetuning, Reading, TaskData


def cola() -> Finetuning:
    return Finetuning(
        task="cola",
        kind="classification",
        data=TaskData(reader="cola"),
        read=Reading(longest=512, positive="1"),
        metrics=("matthews", "accuracy"),
        batch=32,
        epochs=10.0,
        optimiser=adam(2e-5),
    )
