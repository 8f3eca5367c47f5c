"""STS-B: how alike do two sentences mean, 0 to 5?

    source    spec unimo §6.3, unimo2 §6.4
    data      GLUE's STS-B (5,749 / 1,500 pairs)
    command   unimo finetune stsb --from MNLI_RUN --train STS-B/train.tsv --dev STS-B/dev.tsv --out runs/stsb \
              --seeds 5 --grid optimiser.rate=1e-5,2e-5,3e-5 --grid batch=16,32
    hardware  published: 8 V100, 2 hours for base and the whole grid
    expect    Pearson correlation on dev, published: UNIMO 91.0 base, 92.6 large; UNIMO-2 91.2

    published grid: batch 16 and 32, rates 1e-5, 2e-5, 3e-5, five seeds, best dev result. The released scripts run one
    process over eight GPUs and count its batch once, so that they end at an eighth of their schedule (spec unimo
    §6.1); this is the schedule that was meant.

    Starts from the model fine-tuned on MNLI, without its answers. Checkpoints are chosen by the mean of both
    correlations. The score is learnt as it stands, by the mean squared error.
"""

from __future__ import annotations

from unimo.tasks.released import adam
from unimo.tasks.settings import Finetuning, Reading, TaskData


def stsb() -> Finetuning:
    return Finetuning(
        task="stsb",
        kind="regression",
        data=TaskData(reader="stsb"),
        read=Reading(longest=512),
        metrics=("pearson_spearman", "pearson", "spearman"),
        batch=32,
        epochs=10.0,
        optimiser=adam(2e-5),
    )
