"""SQuAD question generation: a question about a passage whose answer is given.

source    spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)
data      SQuAD 1.1 in the split of question generation (75,722 / 10,570 / 11,877)
command   unimo finetune squad_qg --init-from RUN --train train.json --dev dev.json --out runs/squad_qg
hardware  published: 4 V100, 4 hours (base)
expect    BLEU-4/METEOR/ROUGE-L, published: UNIMO 22.78/25.24/51.34 base, 24.59/26.39/52.47 large

Passage and answer are one segment with a [SEP] between them, as released. published for large: rate 5e-6, 6 beams,
length penalty 1.2. METEOR is a Java program with data of its own and is not computed.
"""

from unimo.finetune.released import writing
from unimo.finetune.settings import TaskData, Writing

squad_qg = writing(
    "squad_qg",
    1.25e-5,
    Writing(
        one_segment=True,
        max_source_length=416,
        max_target_length=96,
        num_beams=5,
        length_penalty=1.0,
        min_length=5,
        max_length=48,
    ),
    data=TaskData(reader="squad"),
    metrics=("bleu", "rouge_l"),
    batch_size=32,
    epochs=20.0,
)
