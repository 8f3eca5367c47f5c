"""Questions about scenes of the generated world, whose answers are known.

    source    ours
    data      qa/train.jsonl and qa/heldout.jsonl of the world, with its images
    command   unimo finetune scenes_vqa --init-from runs/scenes --train WORLD/qa/train.jsonl --dev
    WORLD/qa/heldout.jsonl \
              --images WORLD/pairs --images WORLD/heldout --out runs/scenes_vqa
    hardware  2 CPU cores
    expect    not measured yet
"""

from __future__ import annotations

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, Reading, TaskData


def scenes_vqa() -> Finetuning:
    return Finetuning(
        task="scenes_vqa",
        kind="classification",
        data=TaskData(reader="scenes_qa"),
        read=Reading(max_length=48, texts=1, sees=True, reads="both", fusion="sum"),
        metrics=("accuracy",),
        batch_size=64,
        epochs=10.0,
        optimizer=adam(2e-5),
    )
