"""Flickr30k retrieval: the caption of an image among all, and the image of a caption.

source    spec unimo §6.6, unimo2 §6.1
data      dataset_flickr30k.json (Karpathy's splits: 29,000 / 1,014 / 1,000 images of five captions)
command   unimo finetune flickr30k_retrieval --init-from RUN --train dataset_flickr30k.json --dev
          dataset_flickr30k.json --test dataset_flickr30k.json --images flickr30k-images --out
          runs/flickr30k_retrieval
hardware  published: 16 V100, 3 days
expect    R@1 image/text retrieval, published: UNIMO 74.66/89.70 base, 78.04/89.40 large on test; UNIMO-2 80.14/92.01
          on validation, not on test (spec unimo2 §7.1): compare with both

As released: each caption against 10 random images, each image against 10 random captions, circle loss on raw scores;
rate 5e-6, a tenth from epoch 24 and a hundredth from epoch 32 of 40, no warm-up. UNIMO begins with a fresh scoring
layer and has 64 captions a step; UNIMO-2 16, 384 px (--set model.pixels=384), and adds 0.3 cosine to the matching
logit.
"""

from unimo.finetune.released import adam
from unimo.finetune.settings import Finetuning, Ranking, TaskData

flickr30k_retrieval = Finetuning(
    task="flickr30k_retrieval",
    kind="retrieval",
    data=TaskData(reader="karpathy"),
    rank=Ranking(loss="circle", max_length=128, negatives=10, margin=0.2, scale=1.0, cosine=0.3, fresh=True),
    batch_size=16,
    epochs=40.0,
    optimizer=adam(5e-6, decay="piecewise", weight_decay=0.1, warmup=0.0),
    dev_steps=10_000,
)
