"""CNN/DailyMail: the highlights of a newspaper article.

source    spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)
data      287,113 / 13,368 / 11,490 articles; published: the first 2,000 of dev
command   unimo finetune cnn_dailymail --init-from RUN --train train.source --train train.target --dev val.source
          --dev val.target --out runs/cnn_dailymail
hardware  published: 4 V100, 32 hours (base)
expect    ROUGE-1/2/L, published: UNIMO 42.42/20.12/39.61 base, 43.51/20.65/40.63 large

published for large: rate 2e-5, 6 beams, length penalty 1.2. Articles as .story files: --set data.reader=stories.
"""

from unimo.finetune.released import writing
from unimo.finetune.settings import TaskData, Writing

cnn_dailymail = writing(
    "cnn_dailymail",
    4e-5,
    Writing(
        max_source_length=512,
        max_target_length=128,
        num_beams=5,
        length_penalty=0.6,
        min_length=20,
        max_length=128,
        no_repeat_ngram_size=3,
    ),
    data=TaskData(reader="lines"),
    metrics=("rouge",),
    batch_size=32,
    epochs=20.0,
)
