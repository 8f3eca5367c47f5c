"""The baseline of training itself: the same model as it was before its first step, on the same items.

Foils, classes and the dictionary have chance instead, which is what random weights come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from unimo import rng
from unimo.config import from_dict
from unimo.evaluation.zero_shot import Captioning, EvalContext, MaskedWords, Retrieval
from unimo.evaluation.zero_shot.context import Row
from unimo.inference import Pipeline
from unimo.model.build import ModelSettings, build

SUFFIX = ", random weights"
LESSER = ("R@5", "R@10", "BLEU-4", "ROUGE-L", "gain from the image")  # ends of metrics that are not needed twice
# What is scored, and settings that save time: nothing that an untrained model writes comes to an end by itself.
SHORTER: dict[type, dict[str, Any]] = {
    Retrieval: {"shortlist": 0},
    Captioning: {"train_pairs": (), "max_length": 20},
    MaskedWords: {},
}


def untrained(pipeline: Pipeline, precision: str) -> Pipeline | None:
    """The model of a pre-training run with the weights it began with, had it begun at random; None of another's."""
    settings = pipeline.facts.get("settings") or {}
    if "kind" in settings or "seed" not in settings:  # fine-tuned, or not trained here
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.number(settings["seed"], "initialise"))
        model = build(from_dict(ModelSettings, settings["model"], where="model"))
    if pipeline.model.vocabulary_subset is not None:
        model.know_words(pipeline.model.vocabulary_subset.cpu())
    return Pipeline(model.to(pipeline.device).eval(), precision=precision)


def baseline_rows(task: Any, context: EvalContext) -> Iterator[Row]:
    """The scores of an untrained model (`context`) on the items of a task, named as baselines of the model's own."""
    if type(task) not in SHORTER:
        return
    task = replace(task, **SHORTER[type(task)])
    for row in task.score(task.predict(context)):
        if not row["metric"].endswith(LESSER):
            yield {**row, "metric": row["metric"] + SUFFIX, "note": "the same model before training", "baseline": True}
