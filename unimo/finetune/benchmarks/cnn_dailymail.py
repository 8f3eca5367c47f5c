"""CNN/DailyMail: the highlights of a newspaper article.

    source    spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)
    data      287,113 / 13,368 / 11,490 articles; published: the first 2,000 of dev
    command   unimo finetune cnn_dailymail --from RUN --train train.source --train train.target --dev val.source \
              --dev val.target --out runs/cnn_dailymail
    hardware  published: 4 V100, 32 hours (base)
    expect    ROUGE-1/2/L, published: UNIMO 42.42/20.12/39.61 base, 43.51/20.65/40.63 large

    published for large: rate 2e-5, 6 beams, length penalty 1.2. Articles as .story files: --set data.reader=stories.
"""

from __future__ import annotations

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, TaskData, Writing


def cnn_dailymail() -> Finetuning:
    return Finetuning(
        task="cnn_dailymail",
        kind="generation",
        data=TaskData(reader="lines"),
        write=Writing(
            longest_source=512,
            longest_target=128,
            beams=5,
            length_penalty=0.6,
            shortest=20,
            longest=128,
            repeat_trigrams=False,
        ),
        metrics=("rouge",),
        batch=32,
        epochs=20.0,
        optimiser=adam(4e-5, weight_decay=0.01),
    )
