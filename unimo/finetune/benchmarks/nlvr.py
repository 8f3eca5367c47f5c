"""NLVR, the first version: is a sentence true of a drawing of three boxes?

source    no paper of the family reports it; head and rates are those of entailment (spec unimo §6.7)
data      NLVR (12,409 sentences, each with its three boxes in six orders)
command   unimo finetune nlvr --init-from RUN --train train.tar --dev dev.tar --test test.tar --out runs/nlvr
hardware  not measured
expect    accuracy; the majority class gets 55.4 % on test

Tars of images with `sentence` and `label` in their JSON; for the published files --set data.reader=nlvr_json.
"""

from __future__ import annotations

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, Reading, TaskData


def nlvr() -> Finetuning:
    return Finetuning(
        task="nlvr",
        kind="classification",
        data=TaskData(reader="nlvr"),
        read=Reading(max_length=64, texts=1, sees=True, reads="both", fusion="sum"),
        batch_size=64,
        epochs=20.0,
        optimizer=adam(2e-5),
    )
