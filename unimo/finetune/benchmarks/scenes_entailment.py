"""Does a sentence follow from a scene of the generated world, contradict it, or neither? The world's grammar knows.

    source    ours
    data      entailment/*.jsonl of the world, with its images
    command   unimo finetune scenes_entailment --init-from runs/scenes --train WORLD/entailment/train.jsonl \
              --dev WORLD/entailment/heldout.jsonl --images WORLD/pairs --images WORLD/heldout \
              --out runs/scenes_entailment
    hardware  2 CPU cores
    expect    not measured yet
"""

from __future__ import annotations

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, Reading, TaskData


def scenes_entailment() -> Finetuning:
    return Finetuning(
        task="scenes_entailment",
        kind="classification",
        data=TaskData(reader="scenes_entailment"),
        read=Reading(max_length=64, texts=1, sees=True, reads="both", fusion="sum"),
        batch_size=64,
        epochs=10.0,
        optimizer=adam(2e-5),
    )
