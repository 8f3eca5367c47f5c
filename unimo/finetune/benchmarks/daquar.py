"""DAQUAR: the answer to a question about a photograph of a room.

source    ours: the head of VQA with answers that are right or wrong; no paper of the family reports it
data      tars of images with `qas` in their JSON
command   unimo finetune daquar --init-from RUN --train train.tar --dev dev.tar --test test.tar --out runs/daquar
hardware  not measured
expect    share of questions answered with just the right set; the most frequent answer gets 4.8 % on test
"""

from __future__ import annotations

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, Reading, TaskData


def daquar() -> Finetuning:
    return Finetuning(
        task="daquar",
        kind="classification",
        data=TaskData(reader="questions"),
        read=Reading(max_length=48, texts=1, sees=True, reads="both", fusion="sum", soft=True, answers=1000),
        metrics=("daquar_accuracy",),
        batch_size=64,
        epochs=20.0,
        optimizer=adam(3e-5),
    )
