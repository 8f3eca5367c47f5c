"""Fine-tuning recipes: every benchmark as released, the four kinds for a user's own files, and both for small models.

The released recipes are those of models as large as RoBERTa base. A model of a few million parameters learns nothing at
their rates: for it, `ours` keeps task, data, head and decoding, and replaces how the weights move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from unimo.config import from_dict, override
from unimo.config.aliases import task_hint
from unimo.errors import UsageError
from unimo.finetune.benchmarks import BENCHMARKS
from unimo.finetune.benchmarks.benchmark import Benchmark
from unimo.finetune.settings import Finetuning, Kind, Ranking, Reading, TaskData, Writing
from unimo.json_files import load_json
from unimo.model.build import SIZES
from unimo.train.optimizer import OptimizerSettings
from unimo.weights.loading import settings_and_words


def _own(kind: Kind, title: str, files: str, beyond: str, **settings: Any) -> Benchmark:
    """A recipe for a user's own files. beyond: what a score should exceed."""
    defaults: dict[str, Any] = {"task": kind, "batch_size": 32, "epochs": 10.0, "patience": 3}
    run = Finetuning(kind=kind, **{**defaults, "optimizer": OptimizerSettings(lr=2e-5), **settings})
    return Benchmark(run, title, files=files, hardware="2 CPU cores for small models", expect=f"more than {beyond}")


_TABLE, _LINES = "--train my.csv --dev my-dev.csv", "--train my.jsonl --dev my-dev.jsonl"
OWN = {
    "classification": _own(
        "classification",
        "Your own labels: of texts, pairs of texts, images, or images with texts.",
        _TABLE,
        "the commonest label and the nearest training row, which stand beside every score",
        read=Reading(max_length=128, fusion="sum"),
    ),
    "regression": _own(
        "regression",
        "Your own numbers, in whatever unit: learnt as deviations from the training split's mean.",
        _TABLE,
        "the mean and the nearest training row",
        read=Reading(max_length=128, fusion="sum", standardise=True),
    ),
    "generation": _own(
        "generation",
        "Your own texts to write: after a text, about an image, or both.",
        _LINES,
        "the target of the nearest training row",
        write=Writing(max_source_length=256, max_target_length=64, num_beams=3, no_repeat_ngram_size=3),
    ),
    "captions": _own(
        "generation",
        "A sentence about each of your own images.",
        f"{_LINES} --images images",
        "the caption of the nearest training image",
        task="captions",
        data=TaskData(reader="captions"),
        write=Writing(
            sees=True, reads=False, max_target_length=50, end="sep", keep_end=True, num_beams=3, max_length=50
        ),
        metrics=("cider_d", "bleu", "rouge_l"),
    ),
    "retrieval": _own(
        "retrieval",
        "Your own images and captions, to be found by each other: contrast and matching as in pre-training.",
        f"{_LINES} --images images",
        "chance, which stands beside every score",
        data=TaskData(reader="captions"),
        rank=Ranking(loss="hard", max_length=64, shortlist=32),
    ),
}
_ALL = BENCHMARKS | OWN
TUNINGS: dict[str, Finetuning] = {name: entry.run for name, entry in _ALL.items()}

RATES = ((256, 1.5e-3), (512, 1.5e-4), (768, 3e-5), (1 << 30, 1e-5))  # (width at most, peak rate)
TEXT_GENERATION = 4.0  # of the rate up to MUON: what the smallest have hardly practised (results/sweep-generation.json)
MUON = 256  # width up to which matrices inside layers move by Muon, as in pre-training of that size


def ours(run: Finetuning) -> Finetuning:
    """The run as we recommend it for the size of its model.

    Rates by width, four times as high where the smallest write a text after a text; Muon for the smallest, which
    learns questions about images in half the steps of Adam; a shifted linear decay after a longer warm-up; 300 steps
    at least; answers begin with their frequency; poolers begin at random, for those of pre-training have few live
    units (CoLA: Matthews 0.16 in place of 0.00); no adversarial steps, which cost twelve times as much; in the last
    part of the schedule a stop after three dev scores without a better one; retrieval learns from the hardest pairs of
    the batch, not from random ones.
    """
    width = run.model.width or SIZES[run.model.size]["width"]
    lr = next(lr for most, lr in RATES if width <= most)
    if run.kind == "generation" and not run.write.sees and width <= MUON:
        lr *= TEXT_GENERATION
    return replace(
        run,
        optimizer=OptimizerSettings(
            lr=lr, warmup=0.1, decay="linear", weight_decay=0.01, matrix_optimizer="muon" if width <= MUON else "adamw"
        ),
        adversarial=None,
        read=replace(run.read, prior=True, fresh_pooler=run.init_from is not None),
        patience=run.patience or 3,
        min_steps=300,
        rank=replace(run.rank, loss="hard", fresh=False),
    )


def prepared(run: Finetuning, source: str | None, like: str | None = None) -> Finetuning:
    """The run with the model of `source` (a run, checkpoint, saved folder or hub name), or one like `like` from random
    weights."""
    of = source or like
    if of is None:
        raise UsageError(
            "which model?", where="--init-from", expected="a run, a checkpoint, a saved folder or a hub name"
        )
    return replace(run, model=replace(settings_and_words(of)[0], head=None), init_from=source)


def tuned(
    name: str,
    source: str,
    *,
    like: str | None = None,
    recipe: str = "auto",
    data: Mapping[str, Iterable[str] | None] | None = None,
    reader: str | None = None,
    changes: Iterable[str] = (),
) -> Finetuning:
    """The run of a task that starts from `source`, or from "random" weights of a model like `like`.

    recipe: released, ours, or auto: ours for small models. data: files of splits, images, regions and columns, in place
    of the recipe's. changes: key=value. UsageError for what cannot be.
    """
    run = prepared(find_tuning(name), None if source == "random" else source, like)
    if recipe not in ("released", "ours", "auto"):
        raise UsageError("no such recipe", where="--recipe", got=recipe, expected="released, ours or auto")
    if recipe == "ours" or (recipe == "auto" and is_small(run)):
        run = ours(run)
    given: dict[str, Any] = {key: tuple(paths) for key, paths in (data or {}).items() if paths}
    run = replace(run, data=replace(run.data, **given, reader=reader or run.data.reader))
    return override(run, changes)


def is_small(run: Finetuning) -> bool:
    """Whether released rates are not for the run's model."""
    return (run.model.width or SIZES[run.model.size]["width"]) < SIZES["base"]["width"]


def story(name: str) -> str:
    """What a recipe says of itself: source, data, command, hardware, expected numbers."""
    return _ALL[name].story()


def find_tuning(name: str) -> Finetuning:
    """The fine-tuning recipe of this name, or the settings.json of an earlier fine-tuning run."""
    if name in TUNINGS:
        return TUNINGS[name]
    if name.endswith(".json"):
        return from_dict(Finetuning, load_json(name))
    raise UsageError(
        "no such task",
        where="the task's name",
        got=name,
        expected=f"{', '.join(sorted(TUNINGS))}, or the settings.json of a fine-tuning run",
        do=task_hint(name, TUNINGS) or "for your own files: classification, regression, generation, retrieval",
    )
