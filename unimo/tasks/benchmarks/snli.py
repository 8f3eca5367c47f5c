"""SNLI: does a sentence follow from a caption, contradict it, or neither? In words alone.

    source    spec unimo §6.2, unimo2 §6.4
    data      SNLI 1.0 (549,367 pairs; rows without a majority label are left out)
    command   unimo finetune snli --from RUN --train snli_1.0_train.jsonl --dev snli_1.0_dev.jsonl --out runs/snli \
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


def snli() -> Finetuning:
    return Finetuning(
        task="snli",
        kind="classification",
        data=TaskData(reader="snli"),
        read=Reading(longest=512),
        metrics=("accuracy",),
        batch=32,
        epochs=10.0,
        optimiser=adam(2e-5),
    )
