"""Pre-training recipes for UNIMO-2."""

from __future__ import annotations

from dataclasses import replace

from unimo.data.augment import Views
from unimo.data.loader import Budgets
from unimo.model.build import ModelSettings
from unimo.objectives import (
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedLanguageModeling,
    Seq2SeqGeneration,
)
from unimo.train.optimizer import OptimizerSettings
from unimo.train.settings import VAL_FRACTION, Data, Objectives, Run


def scenes() -> Run:
    """UNIMO-2, a very small one, on the generated world: the first thing a newcomer runs.

    source    ours; every part and objective of UNIMO-2 (spec unimo2 §2 to §4), at 64 px and width 128
    command   unimo pretrain scenes
    hardware  2 CPU cores, 2 GB of memory
    time      5 minutes of training, about 1 to write the world and 1 to evaluate
    expect    results/scenes-seed-*.json
    """
    return Run(
        model=ModelSettings(
            size="tiny",
            width=128,
            heads=4,
            image_depth=3,
            text_depth=2,
            grounded_depth=3,
            image_size=64,
            patch=16,
            positions=130,
            dictionary=256,
            chosen=8,
            dropout=0.0,
            attention_dropout=0.0,
            initial_std=0.05,
            initial_patch_positions=4.0,
        ),
        batch=Budgets(pairs=64, images=4, text_tokens=192, caption_length=48, passage_length=96),
        # Captions weigh most: they are what is learnt last. Few masked words a step are a noisy mean, and weigh less.
        objectives=Objectives(
            mlm=MaskedLanguageModeling(weight=0.5, text_weight=0.5, pairs=8),
            itm=ImageTextMatching(weight=0.5, pairs=8),
            seq2seq=Seq2SeqGeneration(weight=4.0, text_weight=0.1, pairs=64),
            image_contrastive=ImageContrastive(weight=0.25),
            dictionary=GroundedDictionaryLoss(weight=0.25),
        ),
        optimizer=OptimizerSettings(
            lr=5e-3, warmup=0.05, hold=0.5, decay="linear", weight_decay=0.05, matrix_optimizer="muon"
        ),
        minutes=5.0,
        workers=0,
        restrict_vocabulary=True,
    )


def photos() -> Run:
    """UNIMO-2 from random weights on a few thousand captioned photographs, beside unpaired texts and images.

    source    ours
    command   unimo pretrain photos --pairs PAIRS --images IMAGES --texts TEXTS
    hardware  2 CPU cores with bf16 instructions, 8 GB of memory
    time      60 minutes
    expect    results/flickr8k-68-minutes-one-core.json (one core; validation/photos-ten-times-text.json)
    """
    return Run(
        model=ModelSettings(
            size="tiny",
            heads=6,
            image_size=96,
            patch=16,
            positions=130,
            dictionary=512,
            chosen=16,
            dropout=0.1,
            attention_dropout=0.0,
            initial_std=0.04,
        ),
        data=Data(pair_views=Views(crop=0.5, flip=0.5, jitter=0.3, grey=0.05), val_fraction=VAL_FRACTION),
        # Texts take two fifths of a step: with a tenth of them they had not learnt the frequencies of their words.
        batch=Budgets(pairs=128, images=12, text_tokens=4096, caption_length=40, passage_length=96, fragments=0.15),
        # Few masked words of captions a step are a noisy mean, and weigh less.
        objectives=Objectives(
            mlm=MaskedLanguageModeling(weight=0.25, text_weight=2.0, pairs=12, ratio=0.3),
            itm=ImageTextMatching(weight=0.25, pairs=6),
            seq2seq=Seq2SeqGeneration(weight=1.0, text_weight=0.3, pairs=32),
            image_contrastive=ImageContrastive(weight=0.25),
            dictionary=GroundedDictionaryLoss(weight=0.1),
        ),
        optimizer=OptimizerSettings(lr=4e-3, warmup=0.05, decay="cosine", weight_decay=0.1, matrix_optimizer="muon"),
        minutes=60.0,
        workers=0,
        ema_decay=0.999,
        unigram_prior=True,
    )


def small() -> Run:
    """UNIMO-2 small from random weights: one GPU, or a patient CPU.

    source    ours; the base recipe's proportions at width 384
    command   unimo pretrain small --pairs PAIRS --images IMAGES --texts TEXTS
    hardware  one GPU with 24 GB
    time      a day for 100,000 steps
    expect    not measured yet
    """
    run = base()
    return replace(
        run,
        model=replace(run.model, size="small"),
        batch=replace(run.batch, pairs=512, images=128, text_tokens=16384),
        optimizer=replace(run.optimizer, lr=5e-4),
    )


def base() -> Run:
    r"""UNIMO-2 base from random weights.

    source    spec unimo2 §2.1 and §4.7; batch, schedule and loss weights are not published and are ours (§11)
    command   torchrun --nproc-per-node 8 -m unimo pretrain base --pairs PAIRS --images IMAGES --texts TEXTS \
              --set batch.micro_batches=8
    hardware  8 GPUs with 80 GB
    time      not measured yet
    expect    not measured yet
    """
    return Run(
        model=ModelSettings(size="base", dropout=0.0, attention_dropout=0.0),
        data=Data(pair_views=Views(crop=0.9, flip=0.5), val_fraction=VAL_FRACTION),
        batch=Budgets(pairs=1024, images=256, text_tokens=65536, caption_length=64, passage_length=512),
        objectives=Objectives(
            mlm=MaskedLanguageModeling(pairs=512),
            itm=ImageTextMatching(pairs=256),
            seq2seq=Seq2SeqGeneration(pairs=512),
        ),
        optimizer=OptimizerSettings(lr=3e-4, warmup=0.02, decay="cosine", weight_decay=0.05),
        steps=200_000,
        workers=12,
        save_minutes=30.0,
    )


def large() -> Run:
    r"""UNIMO-2 large from random weights.

    source    spec unimo2 §2.1: shipped as a configuration by the authors, without weights or results
    command   torchrun --nproc-per-node 8 -m unimo pretrain large --pairs PAIRS --images IMAGES --texts TEXTS \
              --set batch.micro_batches=8
    hardware  8 GPUs with 80 GB
    time      not measured yet
    expect    not measured yet
    """
    run = base()
    return replace(
        run,
        model=replace(run.model, size="large"),
        optimizer=replace(run.optimizer, lr=1.5e-4),
        activation_checkpointing=True,
    )
