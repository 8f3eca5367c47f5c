"""Validation during pre-training: retrieval, captions and masked words of the pairs and texts that are not trained on.

    pairs          val/image_to_text_R@1 ... val/text_to_image_R@10, val/mean_recall, val/CIDEr-D,
                   val/perplexity (masked words beside the image), val/perplexity_without_image
    texts          val/perplexity_texts

The mean recall chooses the best checkpoint; without pairs the perplexity of the texts does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus, open_corpus
from unimo.data.held_out import HeldOut
from unimo.errors import DataError
from unimo.evaluation.zero_shot import Captioning, EvalContext, MaskedWords, Retrieval
from unimo.evaluation.zero_shot.masked_words import ALONE, BESIDE, TEXTS, Filled
from unimo.formats.columns import Fields
from unimo.inference import Pipeline
from unimo.model.unified import Unified
from unimo.regions.store import RegionStore
from unimo.train.early_stopping import Validation
from unimo.train.settings import Run

CAPTIONED, MASKED = 64, 256  # images, and captions or texts, of one validation
PERPLEXITIES = {BESIDE: "val/perplexity", ALONE: "val/perplexity_without_image", TEXTS: "val/perplexity_texts"}


def validator(run: Run, corpora: dict[str, Corpus], say: Callable[[str], None]) -> PretrainingValidator | None:
    """What scores a run while it trains: on `data.val_pairs` and `data.val_texts`, else on what it holds out.

    None where there is neither.
    """
    made = PretrainingValidator(run, corpora, say)
    return made if made.tasks else None


class PretrainingValidator:
    """Scores a model on the validation data of a run. Raises DataError where these cannot be opened."""

    def __init__(self, run: Run, corpora: dict[str, Corpus], say: Callable[[str], None]):
        self.run, self.say = run, say
        self.fingerprints: dict[str, str] = {}
        self.corpora: dict[tuple[Any, tuple[str, ...]], Corpus] = {}
        pairs, held_out = self._open("pairs", corpora)
        texts, texts_held_out = self._open("texts", corpora)
        self.tasks: dict[str, Any] = {}
        if pairs:
            self.tasks["retrieval"] = Retrieval(pairs, held_out=held_out, shortlist=0)
        if pairs and "seq2seq" in run.objectives.active():
            self.tasks["captions"] = Captioning(pairs, held_out=held_out, limit=CAPTIONED)
        if (pairs or texts) and "mlm" in run.objectives.active():
            self.tasks["masked words"] = MaskedWords(
                pairs, texts, held_out=held_out, texts_held_out=texts_held_out, limit=MASKED
            )

    def _open(self, kind: Any, corpora: dict[str, Corpus]) -> tuple[tuple[str, ...], HeldOut | None]:
        """Paths of the validation data of a kind, if there are any, and the split where they are the run's own."""
        named = getattr(self.run.data, f"val_{kind}")
        if named:
            data = self.run.data
            options: dict[str, Any] = {"index_dir": data.index_dir, "verify": data.verify}
            options["fields"] = Fields.of(data.columns)
            limit = data.max_bad_fraction
            corpus = open_corpus(kind, list(named), max_bad_fraction=limit, **options)
            if kind in corpora and corpus.fingerprint == corpora[kind].fingerprint:
                what, do = f"the {kind} to validate on are those to train on", "name others, or leave them out"
                expected = f"other {kind}; without --val-{kind} a part of them is held out"
                raise DataError(what, where=f"data.val_{kind}", got=", ".join(named), expected=expected, do=do)
            if kind == "pairs" and self.run.model.member == "unimo":
                RegionStore.open(list(data.regions) or None, corpus)  # what is missing is said now
            self.say(f"validation on {len(corpus):,} {kind} of {', '.join(named)}")
            self.fingerprints[f"val_{kind}"] = corpus.fingerprint
            self.corpora[kind, named] = corpus
            return named, None
        split, own = HeldOut(self.run.data.val_fraction, self.run.data.val_limit), getattr(self.run.data, kind)
        if kind not in corpora or not len(split.items(corpora[kind])):
            return (), None
        self.corpora[kind, own] = corpora[kind]
        return own, split

    def __call__(self, model: Unified) -> Validation:
        context = EvalContext(Pipeline(model, precision=self.run.precision), regions=self.run.data.regions)
        for (kind, paths), corpus in self.corpora.items():
            context.keep(kind, paths, corpus)
        predictions = {name: task.predict(context) for name, task in self.tasks.items()}
        metrics: dict[str, float] = {}
        for name in ("retrieval", "captions"):
            for row in self.tasks[name].score(predictions[name]) if name in predictions else ():
                metrics[f"val/{row['metric'].replace(' ', '_')}"] = row["score"].value
        filled: dict[str, Filled] = predictions.get("masked words", {})
        metrics |= {PERPLEXITIES[name]: some.perplexity for name, some in filled.items()}
        self.say("validation: " + ", ".join(f"{name[4:]} {_spelled(name, x)}" for name, x in metrics.items()))
        losses = [-float(np.mean(some.log_probability)) for some in filled.values()]
        loss = losses[0] if losses else math.nan
        return Validation(metrics.get("val/mean_recall", -loss), loss, metrics)


def _spelled(name: str, value: float) -> str:
    return f"{value:.1%}" if "R@" in name or "recall" in name else f"{value:.4g}"
