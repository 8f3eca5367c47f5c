"""Pre-training recipes for UNIMO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unimo.data.loader import Budgets
from unimo.model.build import ModelSettings
from unimo.objectives import (
    CrossModalContrastive,
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedGrounding,
    MaskedLanguageModeling,
    MaskedRegionModeling,
    Objectives,
    RewritingContrastive,
    Seq2SeqGeneration,
)
from unimo.synthetic.world import COMBINATIONS
from unimo.train.optimizer import OptimizerSettings
from unimo.train.settings import VAL_FRACTION, Data, Run

NOT_UNIMO: dict[str, Any] = {  # objectives of UNIMO-2 alone, and the matching that rewriting takes the place of
    "cmcl": CrossModalContrastive(weight=0.0),
    "itm": ImageTextMatching(weight=0.0, hard=False),
    "image_contrastive": ImageContrastive(weight=0.0),
    "dictionary": GroundedDictionaryLoss(weight=0.0),
    "masked_grounding": MaskedGrounding(weight=0.0),
}


def unimo_scenes() -> Run:
    """UNIMO, a very small one, on the generated world, with its exact regions, rewritten captions and neighbours.

    source    ours; every part and objective of UNIMO (spec unimo §1 to §3), at width 96, in joint fusion: beside three
              or four regions a text is long, and sharing them saves nothing
    command   unimo pretrain unimo-scenes
    hardware  2 CPU cores, 2 GB of memory
    time      4 minutes of training on two cores with bf16 instructions, 6 without (9 on one core); 1 to 2 to make and
              prepare the world, 1 to evaluate. Its parts are fractions of a known number of steps, so its length is
              given in --steps
    expect    results/unimo-scenes-seed-*.json
    """
    return Run(
        model=ModelSettings(
            size="tiny",
            member="unimo",
            width=96,
            heads=3,
            depth=4,
            region_size=192,
            region_classes=len(COMBINATIONS),
            region_heads=True,
            matching=1,
            positions=130,
            dropout=0.0,
            attention_dropout=0.0,
            initial_std=0.05,
            initial_waves=0.07,
            initial_boxes=24.0,
        ),
        batch=Budgets(pairs=64, images=4, text_tokens=96, caption_length=48, passage_length=96),
        # Hidden nodes teach which word goes with which thing and where it is, hidden relations what is left of what,
        # and rewritten captions to notice when it is not so. In this order: contrast is dear, and what nothing tells
        # yet it cannot teach.
        objectives=Objectives(
            **NOT_UNIMO,
            mlm=MaskedLanguageModeling(
                weight=3.0, text_weight=0.5, pairs=32, nodes=0.4, relations=0.35, alone_until=0.7, relations_from=0.27
            ),
            seq2seq=Seq2SeqGeneration(weight=3.0, text_weight=0.1, pairs=24),
            mrm=MaskedRegionModeling(weight=0.5, pairs=2),
            rewriting=RewritingContrastive(
                weight=3.0, pairs=20, positives=1, negatives=4, others=1, relations=0.3, alone_weight=0.3, begins=0.7
            ),
        ),
        optimizer=OptimizerSettings(
            lr=2e-3, warmup=0.03, hold=0.45, decay="linear", weight_decay=0.05, matrix_optimizer="muon"
        ),
        steps=1760,
        workers=1,
        restrict_vocabulary=True,
    )


def unimo_photos() -> Run:
    """UNIMO from random weights on a few thousand captioned photographs, without a detector.

    source    ours; prefix fusion: the 30 regions of a grid stand once in front of all texts beside an image
    command   unimo prepare regions pairs PAIRS --source grid --out REGIONS; the same of images IMAGES;
              unimo prepare rewrites PAIRS --out REWRITES;
              unimo prepare neighbours --pairs PAIRS --images IMAGES --texts TEXTS --out NEIGHBOURS;
              unimo pretrain unimo-photos --pairs PAIRS --images IMAGES --texts TEXTS --set data.regions=REGIONS \
              --set data.rewrites=REWRITES --set data.neighbours=NEIGHBOURS
    hardware  2 CPU cores with bf16 instructions, 8 GB of memory
    time      60 minutes, and 10 for what is prepared
    expect    results/flickr8k-unimo-*.json
    """
    return Run(
        model=ModelSettings(
            size="tiny",
            member="unimo",
            heads=4,
            depth=5,
            region_size=256,
            region_classes=512,
            region_heads=True,
            fusion="prefix",
            matching=1,
            positions=130,
            dropout=0.1,
            attention_dropout=0.0,
            initial_std=0.04,
            initial_waves=0.06,
            initial_boxes=4.0,
        ),
        data=Data(val_fraction=VAL_FRACTION),
        batch=Budgets(pairs=64, images=8, text_tokens=192, caption_length=40, passage_length=96),
        objectives=Objectives(
            **NOT_UNIMO,
            mlm=MaskedLanguageModeling(weight=0.25, text_weight=0.5, pairs=12),
            seq2seq=Seq2SeqGeneration(weight=1.0, text_weight=0.2, pairs=24),
            mrm=MaskedRegionModeling(weight=0.25, pairs=8),
            rewriting=RewritingContrastive(pairs=64, positives=0, negatives=3, others=4),
        ),
        optimizer=OptimizerSettings(lr=2e-3, warmup=0.05, decay="cosine", weight_decay=0.1, matrix_optimizer="muon"),
        minutes=60.0,
        workers=0,
        ema_decay=0.999,
    )


def unimo_base() -> Run:
    r"""UNIMO base, from RoBERTa's weights (--init-from, see `unimo init-from-pretrained --recipe unimo-base`).

    source    spec unimo §1.2, §2, §3, §5: 500,000 steps, Adam, rate 5e-5, linear decay; 36 regions, 512 tokens; 0.3 of
              a scene graph's nodes hidden. Batch, warm-up, mixture and weights are not published and are ours (§13)
    command   torchrun --nproc-per-node 32 -m unimo pretrain unimo-base --pairs PAIRS --images IMAGES --texts TEXTS \
              --init-from START --set batch.micro_batches=32 --set data.rewrites=REWRITES \
              --set data.neighbours=NEIGHBOURS
    hardware  published: 32 V100 with 32 GB
    time      published: about 7 days
    expect    not measured yet
    """
    return Run(
        model=ModelSettings(size="base", member="unimo", region_heads=True, matching=1),
        data=Data(val_fraction=VAL_FRACTION),
        batch=Budgets(pairs=1024, images=256, text_tokens=65536, caption_length=64, passage_length=512),
        objectives=Objectives(
            **NOT_UNIMO,
            mlm=MaskedLanguageModeling(pairs=512, nodes=0.5, node_ratio=0.3),
            seq2seq=Seq2SeqGeneration(pairs=512, fragments="paper"),
            mrm=MaskedRegionModeling(pairs=512, overlap=0.4),
            rewriting=RewritingContrastive(pairs=256, positives=1, negatives=16, others=4),
        ),
        optimizer=OptimizerSettings(lr=5e-5, warmup=0.06, decay="linear", beta2=0.98, epsilon=1e-6, weight_decay=0.01),
        steps=500_000,
        workers=12,
        save_minutes=30.0,
    )


def unimo_large() -> Run:
    """UNIMO large: the base recipe with 24 layers at width 1024, 100 regions, overlap of 0.3, 0.4 of the nodes.

    source    as unimo-base
    command   as unimo-base, with --set batch.micro_batches=64
    hardware  published: 64 V100 with 32 GB
    time      published: about 10 days
    expect    not measured yet
    """
    run = unimo_base()
    mrm, mlm = replace(run.objectives.mrm, overlap=0.3), replace(run.objectives.mlm, node_ratio=0.4)
    return replace(
        run,
        model=replace(run.model, size="large"),
        objectives=replace(run.objectives, mrm=mrm, mlm=mlm),
        activation_checkpointing=True,
    )
