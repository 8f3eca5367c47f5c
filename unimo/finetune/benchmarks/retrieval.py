"""Retrieval: captions and images found by each other."""

from unimo.finetune.benchmarks.benchmark import Benchmark, adam
from unimo.finetune.settings import Finetuning, Ranking, TaskData

flickr30k_retrieval = Benchmark(
    Finetuning(
        task="flickr30k_retrieval",
        kind="retrieval",
        data=TaskData(reader="karpathy"),
        rank=Ranking(loss="circle", max_length=128, negatives=10, margin=0.2, scale=1.0, cosine=0.3, fresh=True),
        batch_size=16,
        epochs=40.0,
        optimizer=adam(5e-6, decay="piecewise", weight_decay=0.1, warmup=0.0),
        dev_steps=10_000,
    ),
    "Flickr30k retrieval: the caption of an image among all, and the image of a caption.",
    "dataset_flickr30k.json (Karpathy's splits: 29,000 / 1,014 / 1,000 images of five captions)",
    "--train dataset_flickr30k.json --dev dataset_flickr30k.json --test dataset_flickr30k.json "
    "--images flickr30k-images",
    source="spec unimo §6.6, unimo2 §6.1",
    hardware="published: 16 V100, 3 days",
    remarks="As released: each caption against 10 random images, each image against 10 random captions, circle loss on "
    "raw scores; rate 5e-6, a tenth from epoch 24 and a hundredth from epoch 32 of 40, no warm-up. UNIMO begins with a "
    "fresh scoring layer and has 64 captions a step; UNIMO-2 16, 384 px (--set model.pixels=384), and adds 0.3 cosine "
    "to the matching logit. UNIMO-2's numbers are those of validation, not of test (spec unimo2 §7.1): compare with "
    "both.",
)
