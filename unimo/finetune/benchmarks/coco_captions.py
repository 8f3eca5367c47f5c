"""COCO captions: a sentence about an image.

source    spec unimo §6.9, unimo2 §6.2
data      dataset_coco.json (Karpathy's splits: 113,287 / 5,000 / 5,000 images, 566,747 captions to learn from)
command   unimo finetune coco_captions --init-from RUN --train dataset_coco.json --dev dataset_coco.json --test
          dataset_coco.json --images coco --out runs/coco_captions
hardware  published: 16 V100, 3 days (UNIMO base)
expect    BLEU-4/CIDEr on test, published: UNIMO 38.8/124.4 base, 39.6/127.7 large; UNIMO-2 39.7/131.2

No reinforcement stage, as in the papers. As released for UNIMO-2: 128 captions a step, rate 1e-5, 10 epochs; UNIMO
base: 64 a step, rate 7e-6, 20 epochs, and adversarial training: --set adversarial.lr=0.03 --set adversarial.max_norm=0.
The release reads object tags of a detector before it writes: a column of them can be given as text (--column
text=tags); without it a caption is written from the image alone. UNIMO-2 sees 384 px: --set model.pixels=384.
"""

from unimo.finetune.released import adam, writing
from unimo.finetune.settings import TaskData, Writing

coco_captions = writing(
    "coco_captions",
    1e-5,
    Writing(
        sees=True,
        max_source_length=100,
        max_target_length=50,
        end="sep",
        keep_end=True,
        num_beams=5,
        length_penalty=0.6,
        min_length=5,
        max_length=50,
    ),
    data=TaskData(reader="karpathy"),
    metrics=("cider_d", "bleu", "rouge_l"),
    batch_size=128,
    epochs=10.0,
    optimizer=adam(1e-5, weight_decay=0.01, decay="unimo2"),
)
