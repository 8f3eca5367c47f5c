"""Pre-training as a job of the loop: three streams of data, and every objective that is switched on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from unimo.corpus.corpus import Corpus
from unimo.data.loader import Budgets, Stream
from unimo.model.build import build
from unimo.model.unified import Unified
from unimo.objectives import Objective
from unimo.tokenizer import Tokenizer
from unimo.train import data as opening
from unimo.train.early_stopping import EarlyStopping, Validation
from unimo.train.job import Say
from unimo.train.settings import MAY_CHANGE, Run, check
from unimo.weights.init_from import start_from


class Validator(Protocol):
    """Scores a model on validation data. fingerprints: of data that are not among the run's own."""

    fingerprints: dict[str, str]

    def __call__(self, model: Unified) -> Validation: ...


class Pretraining:
    """See `unimo.train.job.TrainingJob`.

    validator: of the settings, the opened corpora and a sink for messages (`unimo.evaluation.validation`); None where
    there is nothing to validate on. Without it a run is not validated, whatever is held out.
    """

    may_change: tuple[str, ...] = MAY_CHANGE
    min_steps = 0
    train_step: Callable[[Unified, dict[str, Objective]], nn.Module] | None = None

    def __init__(self, run: Run, validator: Callable[[Run, dict[str, Corpus], Say], Validator | None] | None = None):
        self.settings: Run = run
        self.validator = validator
        self.early_stopping: EarlyStopping | None = None
        self.held_out: dict[str, np.ndarray] = {}
        self.steps = run.steps
        self.active = run.objectives.active()
        self.corpora: dict[str, Corpus] = {}
        self.fingerprints: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.headline = ""

    def check(self, world: int) -> None:
        check(self.settings, world)

    def open(self, out: Path, say: Say) -> None:
        run = self.settings
        self.corpora = self.corpora or opening.open_corpora(run, out, say)
        self.held_out = opening.held_out(run, self.corpora)
        opening.check_sizes(run, self.corpora, self.held_out)
        self.regions = opening.open_regions(run, self.corpora) if run.model.member == "unimo" else {}
        self.fingerprints = {kind: corpus.fingerprint for kind, corpus in self.corpora.items()}
        self.fingerprints |= {f"regions of {kind}": store.fingerprint for kind, store in self.regions.items()}
        left = {kind: len(corpus) - len(self.held_out.get(kind, ())) for kind, corpus in self.corpora.items()}
        self.headline = ", ".join(f"{count:,} {kind}" for kind, count in left.items())
        self.facts["held_out"] = {kind: len(items) for kind, items in self.held_out.items()}
        self.facts["samples"] = left
        for line in opening.validation_lines(run, self.corpora, self.held_out):
            say(line)
        validator = self.validator(run, self.corpora, say) if self.validator else None
        if validator is not None:
            self.fingerprints |= validator.fingerprints
            self.early_stopping = EarlyStopping(
                validator, run.val_steps or 1, times=0 if run.val_steps else _times(run)
            )

    def stream(self, rank: int, world: int) -> Stream:
        run = self.settings
        return Stream(
            self.corpora,
            _shared_out(run.batch, self.active),
            list(self.active.values()),
            size=run.model.pixels or run.model.image_size,
            tokenizer=Tokenizer.default(),
            seed=run.seed,
            pair_views=run.data.pair_views,
            image_views=run.data.image_views,
            rank=rank,
            world=world,
            cache_bytes=int(run.data.cache_gb * 2**30),
            regions=self.regions,
            prepared=opening.open_prepared(run, self.corpora, self.regions, self.held_out),
            steps=run.steps,
            held_out=self.held_out,
        )

    def build(self) -> Unified:
        model, run = build(self.settings.model), self.settings
        if run.restrict_vocabulary or run.unigram_prior:
            counts = opening.word_counts(self.corpora)
        if run.restrict_vocabulary:
            known = opening.vocabulary_subset(counts)
            model.know_words(torch.from_numpy(known))
            self.facts["known_words"] = known.tolist()
        if run.unigram_prior:
            bias = model.language_model.bias.data
            bias[: len(counts)] = torch.from_numpy(opening.log_unigrams(counts))
        return model

    def start(self, model: Unified, say: Say) -> None:
        if self.settings.init_from is not None:
            report = start_from(model, self.settings.init_from)
            say(f"{len(report.loaded)} tensors from {self.settings.init_from}, {len(report.missing)} as initialised")


def _times(run: Run) -> int:
    """Validations of a run: ten, but fewer in one of less than 1,000 steps or half an hour."""
    return min(10, max(1, int(run.steps / 100 if run.steps else (run.minutes or 0) / 3)))


def _shared_out(budgets: Budgets, active: dict[str, Objective]) -> Budgets:
    """Passages are masked or written; with one of the two objectives off, the other gets them all."""
    if "mlm" in active and "seq2seq" in active:
        return budgets
    return replace(budgets, fragments=float("seq2seq" in active))
