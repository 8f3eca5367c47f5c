"""One checkpoint, all tasks its data allow: scores with intervals, as JSON, as a page and in the terminal.

    checkpoint -> tasks (predict, score, show) -> report -> evaluation.json, report.html

A run trained on the generated world of `scenes` finds its evaluation data there: scenes held out, scenes of
combinations never seen, foils, single things by class, new texts. Other runs are told by `EvaluationData`.
What cannot be asked is named among the notes with its reason, never dropped silently.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimo import inference
from unimo.config import check_settings, setting, to_dict
from unimo.corpus.finding import Kind, find_sources
from unimo.errors import UsageError, WeightsError, nearest
from unimo.evaluation import report
from unimo.evaluation.zero_shot import (
    TASKS,
    Captioning,
    Classification,
    DictionaryUse,
    EvalContext,
    Foils,
    MaskedWords,
    Retrieval,
    SceneTruth,
)
from unimo.evaluation.zero_shot.scenes import World, find_world, open_world
from unimo.formats.columns import Fields
from unimo.machine import describe_machine, keep_freed_memory
from unimo.paths import matches
from unimo.train.provenance import commit, weights_hash
from unimo.train.run_folder import read_log

Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationData:
    """Where the questions come from, and how many are asked."""

    pairs: tuple[str, ...] = setting((), "images with captions, not trained on: folders, globs or files", filled=True)
    images: tuple[str, ...] = setting((), "images whose JSON names their class: folders, globs or files", filled=True)
    texts: tuple[str, ...] = setting((), "texts without images, not trained on: folders, globs or files", filled=True)
    foils: str | None = setting(None, "a .jsonl of true and false captions of images among the pairs", filled=True)
    world: str | None = setting(
        None, "folder of the generated world; none: where the run found its own data", filled=True
    )
    tasks: tuple[str, ...] = setting((), "only these tasks; empty means all that the data allow")
    pairs_limit: int | None = setting(None, "images in retrieval at most; none takes all", at_least=1)
    captions: int | None = setting(
        None, "captions of each image in retrieval; none takes all (the world: one)", at_least=1
    )
    shortlist: int = setting(
        32, "candidates of each query that are read again by the fused model; 0 for none", at_least=0
    )
    rerank_queries: int | None = setting(
        1000, "queries of each direction that get the second stage; none takes all", at_least=0
    )
    captioned: int | None = setting(256, "images to caption at most", at_least=0)
    baseline: int = setting(
        2000, "training images from which the copying baseline takes captions; 0 for none", at_least=0
    )
    images_limit: int | None = setting(2048, "images to classify at most", at_least=1)
    masked: int | None = setting(512, "captions, and texts, in which words are masked at most", at_least=0)
    columns: tuple[str, ...] = setting((), "part=column of tables with other names, as in training; default: as there")
    regions: tuple[str, ...] = setting((), "detected regions, if not beside the shards (UNIMO)", filled=True)
    index_dir: str | None = setting(
        None, "where shard indexes go when they should not lie beside the shards", filled=True
    )
    seed: int = setting(0, "chance of samples, masks and intervals")


@dataclass(frozen=True)
class Question:
    """One task to run, or the reason why it cannot: exactly one of both."""

    name: str
    task: Any = None
    reason: str = ""


def evaluate(
    path: str | Path,
    *,
    out: str | Path | None = None,
    data: EvaluationData | None = None,
    batch_size: int = 64,
    precision: str = "auto",
    device: str | None = None,
    minutes: float | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Asks the model of a run's folder (its newest good checkpoint) or of one checkpoint; returns the report.

    Writes evaluation.json and report.html into `out` (a run's own folder unless told otherwise). batch_size:
    images at a time; no score depends on it in fp32, while in bf16 two candidates that all but tie may
    change places. minutes: no task is begun after so long. Raises WeightsError, DataError and UsageError for
    what cannot be read or asked.
    """
    started = time.monotonic()
    data = data or EvaluationData()
    check_settings(data, cls=EvaluationData)
    if not Path(path).exists():
        raise WeightsError("no such checkpoint", where=path, expected="a run's folder or one of its checkpoints")
    folder = _run_folder(Path(path))
    if out is None and folder is None:
        raise UsageError(
            "where should the report go?",
            where=path,
            got="a checkpoint outside a run",
            do="name it with --out",
        )
    out = Path(out) if out is not None else folder
    assert out is not None
    _check_names(data.tasks)
    if minutes is not None and not minutes >= 0:  # nan is neither
        raise UsageError("how many minutes?", where="minutes", got=minutes, expected="0 or more")
    if batch_size < 1:
        raise UsageError("a batch holds at least one image", where="batch_size", got=batch_size)
    keep_freed_memory()
    kinds: tuple[Kind, ...] = ("pairs", "images", "texts")
    for kind in kinds:
        if getattr(data, kind):
            find_sources(kind, getattr(data, kind))  # a wrong path is told now, not minutes later
    pipeline = inference.load(path, device=device, precision=precision)
    trained = pipeline.facts.get("settings", {}).get("data", {})
    regions = data.regions or tuple(trained.get("regions", ()))
    context = EvalContext(pipeline, data.index_dir, regions=regions, batch_size=batch_size)
    context.fields = Fields.of(data.columns or trained.get("columns", ()))
    questions = plan(data, trained, has_dictionary=pipeline.model.dictionary is not None)
    scores, examples, notes, seconds = [], [], [], {}
    for question in questions:
        reason, began = question.reason, time.monotonic()
        if not reason and minutes is not None and began - started > 60 * minutes:
            reason = f"the {minutes:g} minutes were over"
        if reason:
            notes.append(f"{question.name} skipped: {reason}")
            say(notes[-1])
            continue
        answers = question.task.predict(context)
        scores += question.task.score(answers)
        examples += question.task.show(answers)
        seconds[question.task.title] = round(time.monotonic() - began, 1)
        say(f"{question.task.title}: {seconds[question.task.title]} s")
    if context.bad_samples.quarantined:
        bad = context.bad_samples
        left_out = f"{bad.quarantined} of {bad.offered} samples are bad and were left out"
        notes.append(f"{left_out}: {bad.summary()['reasons']}")
    whole = {
        "title": f"{(folder or Path(path)).resolve().name}: evaluation",
        "summary": _summary(pipeline),
        "facts": _facts(pipeline, data, context, time.monotonic() - started, seconds),
        "scores": scores,
        "curves": curves(folder / "log.jsonl") if folder is not None and (folder / "log.jsonl").is_file() else [],
        "examples": examples,
        "notes": notes,
    }
    report.write_json(whole, out / "evaluation.json")
    report.render(whole, out / "report.html")
    say(report.scores_table(whole))
    say(f"{out / 'evaluation.json'}  {out / 'report.html'}")
    return whole


# ---- which questions


def plan(data: EvaluationData, trained: Mapping[str, Any], *, has_dictionary: bool = True) -> list[Question]:
    """Every task, with its data or the reason why it cannot be asked. trained: the run's data settings."""
    if data.world and data.pairs:
        raise UsageError("the world brings its own pairs", where="pairs, world", expected="one of both")
    paths = [path for kind in ("pairs", "images", "texts") for path in trained.get(kind, ())]
    folder = Path(data.world) if data.world else None if data.pairs else find_world(paths)
    train_pairs = tuple(trained.get("pairs", ())) if data.baseline else ()
    gone = [path for path in train_pairs if not matches(path)]
    if gone:
        train_pairs = ()
    if folder is None:
        questions = list(_of_paths(data, train_pairs))
    else:
        questions = list(_of_world(data, open_world(folder), train_pairs))
    if gone:
        reason = f"the baseline, which copies training captions: {gone[0]} is not here"
        questions.append(Question("captioning", reason=reason))
    if not has_dictionary:
        reason = "the model has no dictionary"
        questions = [replace(q, task=None, reason=reason) if q.name == "dictionary" else q for q in questions]
    return [question for question in questions if not data.tasks or question.name in data.tasks]


def _of_paths(data: EvaluationData, train_pairs: tuple[str, ...]) -> Iterator[Question]:
    seed = data.seed
    for name in ("retrieval", "captioning", "dictionary"):
        if not data.pairs:
            yield Question(name, reason="no pairs to ask about (set pairs)")
    if data.pairs:
        yield Question("retrieval", Retrieval(data.pairs, **_retrieval(data)))
        yield Question(
            "captioning",
            Captioning(data.pairs, train_pairs, limit=data.captioned, train_limit=data.baseline, seed=seed),
        )
        yield Question("dictionary", DictionaryUse(data.pairs, limit=data.masked, seed=seed))
    if data.pairs and data.foils:
        yield Question("foils", Foils(data.pairs, data.foils, seed=seed))
    else:
        yield Question("foils", reason="no foils, or not the pairs they belong to (set foils and pairs)")
    if data.images:
        yield Question("classification", Classification(data.images, limit=data.images_limit, seed=seed))
    else:
        yield Question("classification", reason="no images with class names (set images)")
    if data.pairs or data.texts:
        yield Question("masked_words", MaskedWords(data.pairs, data.texts, limit=data.masked, seed=seed))
    else:
        yield Question("masked_words", reason="no pairs and no texts (set pairs or texts)")
    yield Question("scene_truth", reason="the run was not trained on the generated world, or other pairs were named")


def _of_world(data: EvaluationData, world: World, train_pairs: tuple[str, ...]) -> Iterator[Question]:
    """Paths the user names go before what the world holds."""
    seed, one = data.seed, {**_retrieval(data), "captions": data.captions or 1}
    for pairs, what in ((world.heldout, "held-out scenes"), (world.compositional, "unseen combinations")):
        if pairs:
            yield Question("retrieval", Retrieval(pairs, f"Retrieval, {what}", **one))
        else:
            yield Question("retrieval", reason=f"the world has no {what}")
    if world.foils and world.heldout:
        yield Question("foils", Foils(world.heldout, data.foils or world.foils, seed=seed))
    else:
        yield Question("foils", reason="the world has no foils")
    images, unseen = (data.images, ()) if data.images else (world.classes, world.unseen_classes)
    if images:
        yield Question("classification", Classification(images, limit=data.images_limit, unseen=unseen, seed=seed))
    else:
        yield Question("classification", reason="the world has no images of classes (set images)")
    if world.heldout or data.texts:
        passages = [] if data.texts else world.new_texts(data.masked or 512)
        masked = MaskedWords(world.heldout, data.texts, passages, limit=data.masked, seed=seed)
        yield Question("masked_words", masked)
    else:
        yield Question("masked_words", reason="the world has no held-out scenes (set texts)")
    for pairs, what in ((world.heldout, "held-out scenes"), (world.compositional, "unseen combinations")):
        if not pairs:
            yield Question("captioning", reason=f"the world has no {what}")
            yield Question("scene_truth", reason=f"the world has no {what}")
            continue
        copied = train_pairs if pairs is world.heldout else ()
        written = Captioning(
            pairs, copied, f"Captions, {what}", limit=data.captioned, train_limit=data.baseline, seed=seed
        )
        yield Question("captioning", written)
        truth = SceneTruth(pairs, f"Captions against the scene, {what}", limit=data.captioned, seed=seed)
        yield Question("scene_truth", truth)
    if world.heldout:
        yield Question("dictionary", DictionaryUse(world.heldout, limit=data.masked, seed=seed))
    else:
        yield Question("dictionary", reason="the world has no held-out scenes")


def _retrieval(data: EvaluationData) -> dict[str, Any]:
    return {
        "captions": data.captions,
        "limit": data.pairs_limit,
        "shortlist": data.shortlist,
        "rerank_queries": data.rerank_queries,
        "seed": data.seed,
    }


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in TASKS:
            guess = nearest(name, TASKS)
            raise UsageError(
                "no such task",
                where="tasks",
                got=name,
                expected=", ".join(TASKS),
                do=f"did you mean {guess}?" if guess else None,
            )


# ---- how the numbers came about


def _run_folder(path: Path) -> Path | None:
    """The run a path belongs to: the folder itself, or the one whose checkpoint it is."""
    if (path / "checkpoints").is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else None


def _summary(pipeline: inference.Pipeline) -> str:
    """What was trained on what for how long."""
    facts = pipeline.facts
    data = facts.get("settings", {}).get("data", {})
    sources = [f"{kind} of {', '.join(data[kind])}" for kind in ("pairs", "images", "texts") if data.get(kind)]
    parameters = sum(p.numel() for p in pipeline.model.parameters())
    trained = f"trained for {facts.get('elapsed', math.nan) / 60:.1f} minutes, {facts['step']:,} steps"
    return f"{parameters:,} parameters, {trained}, on {'; '.join(sources) or 'data it does not name'}."


def _facts(
    pipeline: inference.Pipeline,
    data: EvaluationData,
    context: EvalContext,
    elapsed: float,
    seconds: dict[str, float],
) -> dict[str, str]:
    facts = pipeline.facts
    weights = "ema.safetensors" if facts.get("ema") else "model.safetensors"
    machine = describe_machine()
    asked = {key: value for key, value in to_dict(data).items() if value != to_dict(EvaluationData())[key]}
    return {
        "command": shlex.join(sys.argv),
        "commit": commit() or "unknown (not a git checkout)",
        "checkpoint": f"{facts['path']}, step {facts['step']}",
        "checkpoint hash": f"{weights_hash(Path(facts['path']), weights)} ({weights})",
        "seed of training": str(facts.get("settings", {}).get("seed", "unknown")),
        "seed of evaluation": str(data.seed),
        "settings of evaluation": ", ".join(f"{key}={value}" for key, value in asked.items()) or "as shipped",
        "parameters": f"{sum(p.numel() for p in pipeline.model.parameters()):,}",
        "machine": ", ".join(f"{name} {value}" for name, value in machine.items()),
        "precision": str(pipeline.dtype).removeprefix("torch."),
        "minutes trained": f"{facts.get('elapsed', math.nan) / 60:.1f}",
        "minutes evaluated": f"{elapsed / 60:.2f}",
        "seconds by task": ", ".join(f"{title} {spent}" for title, spent in seconds.items()),
        **{f"data, {name}": fingerprint for name, fingerprint in context.fingerprints.items()},
    }


# ---- curves

OWN_CHART = ("lr", "norm")


def curves(log: str | Path) -> list[dict[str, Any]]:
    """Charts of a run's log: losses of every objective, their accuracies, learning rate and gradient norm."""
    points: dict[str, list[tuple[float, float]]] = {}
    for record in read_log(log):
        for name, value in record.items():
            if name not in ("step", "seconds") and isinstance(value, (int, float, str)):
                points.setdefault(name, []).append((record.get("step", math.nan), _number(value)))
    points.pop("loss", None)  # a weighted sum of parts that are not asked at every step
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, values in points.items():
        if name in OWN_CHART:
            charts[name] = {name: values}
        elif name.endswith(".accuracy"):
            charts.setdefault("accuracy while training", {})[name.removesuffix(".accuracy")] = smooth(values)
        else:
            charts.setdefault(f"{name.partition('.')[0]} loss", {})[name] = smooth(values)
    order = sorted(charts, key=lambda title: (title in OWN_CHART, title.startswith("accuracy"), title))
    titles = {"lr": "learning rate", "norm": "gradient norm before clipping"}
    return [{"title": titles.get(title, title), "x": "step", "series": charts[title]} for title in order]


def smooth(points: list[tuple[float, float]], windows: int = 50) -> list[tuple[float, float]]:
    """Running mean, exponentially weighted over about 1 / `windows` of the points; starts at the first value.

    What is not finite interrupts the line and leaves the mean as it was.
    """
    keep = 1 - min(1.0, windows / max(1, len(points)))
    mean = weight = 0.0
    line = []
    for x, y in points:
        if not math.isfinite(y):
            line.append((x, math.nan))
            continue
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + 1 - keep
        line.append((x, mean / weight))
    return line


def _number(value: float | str) -> float:
    """Logs spell what JSON cannot hold: "nan", "inf"."""
    try:
        return float(value)
    except ValueError:
        return math.nan
