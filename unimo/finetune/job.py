"""Fine-tuning as a job of the training loop (`unimo.train.loop`).

settings -> rows, labels -> model with a head -> the loop, dev scores, best weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unimo import distributed, rng
from unimo.corpus.bad_samples import BadSamples
from unimo.data.augment import Views
from unimo.errors import DataError, UsageError
from unimo.finetune.batches import TaskRows, TaskStream, places_of
from unimo.finetune.data import open_split, say_shared
from unimo.finetune.generation import targets_of
from unimo.finetune.settings import MAY_CHANGE, Finetuning, check
from unimo.finetune.split import Examples
from unimo.finetune.task_type import mean_loss
from unimo.finetune.task_types import (
    Classification,
    Generation,
    TaskType,
    resolved,
    selection_score,
    task_type_of,
    with_targets,
)
from unimo.model.build import build
from unimo.model.unified import Unified
from unimo.objectives.objective import Objective
from unimo.tokenizer import Tokenizer
from unimo.train.early_stopping import EarlyStopping
from unimo.train.job import Say
from unimo.weights.loading import settings_and_words


class Task:
    """A fine-tuning run as a training job, see `unimo.train.job.TrainingJob`.

    After `open`: splits by name (train, dev, test as far as given), and task_type.
    """

    may_change: tuple[str, ...] = MAY_CHANGE

    def __init__(self, run: Finetuning):
        self.settings = run
        self.steps: int | None = None
        self.min_steps = run.min_steps
        self.active: dict[str, Any] = {}
        self.fingerprints: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.early_stopping: EarlyStopping | None = None
        self.train_step: Callable[[Unified, dict[str, Objective]], nn.Module] | None = None
        self.headline = ""
        self.splits: dict[str, Examples] = {}

    def check(self, world: int) -> None:
        check(self.settings, world)

    def open(self, out: Path, say: Say) -> None:
        """Rows, labels and everything that follows from them."""
        run = self.settings
        bad_samples = BadSamples(out / "bad_samples.jsonl" if distributed.rank() == 0 else None)
        splits = {}
        for name in ("train", "dev", "test"):
            if getattr(run.data, name):
                examples = open_split(run, name, bad_samples=bad_samples, say=say)
                if name == "train":
                    splits[name] = limited(examples, run.data.train_limit, run.seed)
                else:  # the same rows whatever the seed, so that seeds are compared over them
                    splits[name] = limited(examples, run.data.score_limit, 0)
        if not splits["train"].labelled:
            where = splits["train"].source
            raise DataError("the training split has no targets", where=where, expected="a target in every row")
        self.settings = run = resolved(run, splits["train"])
        self.splits = {name: with_targets(run, examples) for name, examples in splits.items()}
        say_shared(self.splits, say)
        self.task_type: TaskType = task_type_of(run)
        for examples in self.splits.values():
            self.task_type.check(examples)
        self.active = {run.kind: self.task_type}
        self.fingerprints = {name: rows.fingerprint for name, rows in self.splits.items() if name != "test"}
        rows = ", ".join(f"{len(examples):,} {name}" for name, examples in self.splits.items())
        self.headline = f"{run.task} ({run.kind}): {rows}"
        if run.adversarial is not None:
            from unimo.finetune.adversarial import AdversarialTrainStep

            self.train_step = partial(AdversarialTrainStep, settings=run.adversarial, seed=run.seed)
        self._plan(len(places_of(self.splits["train"], self.task_type.each_target)) / run.batch_size, say)

    def _plan(self, epoch: float, say: Say) -> None:
        """How long the run is, and when its dev split is scored. epoch: its length in steps."""
        run = self.settings
        if run.minutes is None:
            self.steps = run.steps or max(1, run.min_steps, int(epoch * (run.epochs or 0)))
            self.min_steps = min(run.min_steps, self.steps)
        if "dev" not in self.splits:
            say("no dev split: the last weights are kept, and nothing stops the run early")
            return
        # An epoch of a few rows is too short to tell anything: at most twenty scores a run, unless dev_steps says more.
        least = self.steps // 20 if self.steps else 50
        every = run.dev_steps or max(1, round(epoch * run.dev_epochs), least)
        self.early_stopping = EarlyStopping(
            self._evaluate, every, run.patience, begins=run.patience_from, min_steps=self.min_steps
        )
        examples = limited(self.splits["dev"], run.dev_limit, run.seed)
        self.dev = examples, task_rows(run, self.task_type, examples)

    def rows(self, name: str, views: Views = Views()) -> TaskRows:
        return task_rows(self.settings, self.task_type, self.splits[name], views)

    def stream(self, rank: int, world: int) -> TaskStream:
        run = self.settings
        return TaskStream(
            self.rows("train", run.data.views),
            self.task_type,
            batch_size=run.batch_size,
            seed=run.seed,
            micro_batches=run.micro_batches,
            rank=rank,
            world=world,
            each_target=self.task_type.each_target,
        )

    def build(self) -> Unified:
        run, known = self.settings, None
        model = build(run.model)
        if run.init_from is not None and (words := settings_and_words(run.init_from)[1]) is not None:
            known = words.tolist()
        if isinstance(self.task_type, Generation) and (known is not None or run.write.restrict_vocabulary):
            known = sorted({*(known or ()), *_target_words(self.splits["train"])})
        if known is not None:
            model.know_words(torch.tensor(known))
            self.facts["known_words"] = known
        if isinstance(self.task_type, Classification) and run.read.prior and model.head is not None:
            model.head.output.bias.data.copy_(torch.from_numpy(self.task_type.prior(self.splits["train"])))
        if self._fresh_matching and model.matching is not None:
            nn.init.xavier_uniform_(model.matching.linear.weight)  # as published graphs begin (spec unimo §6.6)
            nn.init.uniform_(model.matching.linear.bias, -1, 1)
        return model

    def start(self, model: Unified, say: Say) -> None:
        run = self.settings
        if run.init_from is None:
            say("all weights are random")
            return
        from unimo.weights.init_from import start_from

        report = start_from(model, run.init_from, self._fresh_parts())
        self.facts["started"] = {"from": run.init_from, "loaded": len(report.loaded), "fresh": report.missing}
        say(f"{len(report.loaded)} tensors from {run.init_from}; fresh: {', '.join(report.missing) or 'none'}")

    @property
    def _fresh_matching(self) -> bool:
        return self.settings.kind == "retrieval" and self.settings.model.member == "unimo" and self.settings.rank.fresh

    def _fresh_parts(self) -> tuple[str, ...]:
        """Beginnings of the names of tensors that stay random whatever the run starts from."""
        head = self.settings.model.head
        if self._fresh_matching:
            return ("matching.",)
        if head is None or not self.settings.read.fresh_pooler:
            return ()
        return tuple(f"{side}_pooler." for side in (("text", "image") if head.reads == "both" else (head.reads,)))

    def _evaluate(self, model: Unified) -> tuple[float, float]:
        """Score and loss on the dev split, many rows at a time: they only choose among checkpoints."""
        from unimo.inference.model import Pipeline  # only a run with a dev split predicts

        run, (examples, rows) = self.settings, self.dev
        pipeline = Pipeline(model, precision=run.precision)
        predictions = self.task_type.predict(pipeline, rows, batch_size=run.batch_size)
        score = selection_score(self.task_type, self.task_type.score(predictions, examples, seed=run.seed))
        return score, mean_loss(self.task_type, pipeline, rows, batch_size=run.batch_size)


# ---- rows


def task_rows(run: Finetuning, task: TaskType, examples: Examples, views: Views = Views()) -> TaskRows:
    """The rows of a split as this run's model reads them. UsageError where UNIMO has no regions to see."""
    regions = None
    if task.sees and run.model.member == "unimo" and examples.images is not None:
        from unimo.regions.store import RegionStore

        regions = RegionStore.open(list(run.data.regions) or None, examples.images)
        if regions.feature_size not in (0, run.model.region_size):
            raise UsageError(
                "regions of another size than the model's",
                where=f"model.region_size, regions of {examples.name}",
                got=regions.feature_size,
                expected=run.model.region_size,
                do="prepare regions of the model's size, or start from a model of theirs",
            )
    return TaskRows(
        examples,
        size=run.model.pixels or run.model.image_size,
        tokenizer=Tokenizer.default(),
        regions=regions,
        views=views,
        cache_bytes=int(run.data.cache_gb * 2**30),
        sees=task.sees,
    )


def limited(examples: Examples, most: int | None, seed: int) -> Examples:
    """At most so many rows, the same ones for a seed, in their order."""
    if most is None or most >= len(examples):
        return examples
    kept = np.sort(rng.generator(seed, "rows", examples.name).permutation(len(examples))[:most])
    return replace(examples, rows=[examples.rows[int(i)] for i in kept])


def _target_words(examples: Examples) -> set[int]:
    """Ids of all pieces of all targets, and of the special tokens that are written."""
    special = {Tokenizer.cls, Tokenizer.sep, Tokenizer.mask}
    texts = [text for row in examples.rows for text in targets_of(row)]
    return special.union(*Tokenizer.default().encode_batch(texts)) if texts else special
