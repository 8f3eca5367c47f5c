"""Gigaword: the headline of a first sentence of news.

source    spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)
data      3,803,957 / 189,651 / 1,951 pairs; published: 20,000 of dev
command   unimo finetune gigaword --init-from RUN --train train.src.txt --train train.tgt.txt --dev dev.src.txt --dev
          dev.tgt.txt --out runs/gigaword
hardware  published: 4 V100, 27 hours (base)
expect    ROUGE-1/2/L, published: UNIMO 38.80/19.99/36.27 base, 39.71/20.37/36.88 large

published for large: 6 beams, length penalty 1.2.
"""

from unimo.finetune.released import writing
from unimo.finetune.settings import TaskData, Writing

gigaword = writing(
    "gigaword",
    3e-5,
    Writing(max_source_length=128, max_target_length=32, num_beams=5, length_penalty=0.6, min_length=5, max_length=32),
    data=TaskData(reader="lines"),
    metrics=("rouge",),
    batch_size=128,
    epochs=10.0,
)
