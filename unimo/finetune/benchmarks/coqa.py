"""CoQA: the next answer in a conversation about a story.

source    spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)
data      CoQA (108,647 / 7,983 questions); scored on dev, the only public split
command   unimo finetune coqa --init-from RUN --train coqa-train-v1.0.json --dev coqa-dev-v1.0.json --out runs/coqa
hardware  published: 4 V100, 7 hours (base)
expect    F1 on dev (the papers' column "Acc"), published: UNIMO 80.2 base, 84.9 large

Story and turns with tables of speakers and turns, fresh at the start; the last 15 turns are kept. Only UNIMO has
these tables: for UNIMO-2 --set write.dialogue=false. published for large: rate 8e-6.
"""

from unimo.finetune.released import writing
from unimo.finetune.settings import Writing

coqa = writing(
    "coqa",
    1e-5,
    Writing(
        dialogue=True,
        max_source_length=480,
        max_target_length=32,
        num_beams=3,
        length_penalty=0.0,
        max_length=30,
    ),
    metrics=("coqa_f1", "coqa_em"),
    batch_size=32,
    epochs=20.0,
)
