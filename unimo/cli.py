"""Every verb of `unimo`, one function each. Heavy imports wait inside them, so that help comes at once."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from unimo import __version__
from unimo.errors import UnimoError, UsageError

app = typer.Typer(
    help="UNIMO and UNIMO-2: learn from texts, pictures and pairs; search, caption, fill in and classify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prepare = typer.Typer(help="Work done once, before training.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")

Paths = Annotated[list[str] | None, typer.Option(help="Folder, glob or file; may be given several times.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting.")]
Model = Annotated[str, typer.Argument(help="A run's folder or one of its checkpoints.")]


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `unimo recipes`), or a settings.json.")
    ] = "scenes",
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/RECIPE.")] = None,
    start: Annotated[str | None, typer.Option(help="Weights to start from: a run, saved folder or hub name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Train for so long (the learning rate follows the clock).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps (exactly resumable).")] = None,
    seed: Annotated[int | None, typer.Option(help="All chance of the run.")] = None,
    assignments: Sets = None,
    evaluation: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate at the end.")] = True,
) -> None:
    """Train on three folders (texts, images, pairs) and evaluate what came out."""
    from dataclasses import replace

    from unimo import distributed, recipes
    from unimo.config import override
    from unimo.train import train

    run = recipes.find(recipe)
    given: dict[str, Any] = {"texts": texts, "images": images, "pairs": pairs}
    if any(given.values()):  # they replace the recipe's folders: what is not named is absent
        folders: dict[str, Any] = {kind: tuple(paths or ()) for kind, paths in given.items()}
        run = replace(run, data=replace(run.data, **folders))
    changes = list(assignments or ())
    if minutes is not None:
        changes += [f"minutes={minutes}", "steps=none"]
    if steps is not None:
        changes += [f"steps={steps}", "minutes=none"]
    if seed is not None:
        changes += [f"seed={seed}"]
    run = override(run, changes)
    if start is not None:
        run = replace(run, start=start)
    folder = Path(out or f"runs/{Path(recipe).stem}")
    rank, _ = distributed.start()
    with distributed.together():  # one process writes the world, the others then find it
        if rank == 0:
            run = recipes.with_world(recipe, run, folder, _say)
    run = recipes.with_world(recipe, run, folder, lambda _: None)
    train(run, folder, resume=resume, say=_say)
    distributed.stop()
    if rank == 0 and evaluation:
        from unimo.evaluate import evaluate as run_evaluation

        run_evaluation(folder, say=_say)


@app.command()
def evaluate(
    model: Model,
    out: Annotated[str | None, typer.Option(help="Folder of the report; default the run's own.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no task after so long.")] = None,
    assignments: Sets = None,
) -> None:
    """Score a model on everything its data allow; writes evaluation.json and report.html."""
    from unimo.config import override
    from unimo.evaluate import EvaluationData
    from unimo.evaluate import evaluate as run_evaluation

    run_evaluation(model, out=out, data=override(EvaluationData(), assignments or ()), minutes=minutes, say=_say)


@app.command()
def finetune(
    task: Annotated[
        str, typer.Argument(help="A benchmark, or classification, regression, generation, captions, retrieval.")
    ],
    source: Annotated[
        str, typer.Option("--from", help="Weights to start from: a run, saved folder or hub name; or `random`.")
    ],
    train: Paths = None,
    dev: Paths = None,
    test: Paths = None,
    images: Paths = None,
    regions: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/TASK.")] = None,
    like: Annotated[str | None, typer.Option(help="With --from random: the run whose model settings to take.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="PART=COLUMN of your own file: text, text2, image, label, score, target.")
    ] = None,
    reader: Annotated[str | None, typer.Option(help="How files are read; default: as the task says.")] = None,
    recipe: Annotated[
        str, typer.Option(help="released, ours, or auto: ours for models smaller than the papers'.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    epochs: Annotated[float | None, typer.Option(help="Train for so many passes over the rows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long.")] = None,
    seed: Annotated[int | None, typer.Option(help="All chance of the run.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Make so many runs, with seeds from 1 on.", min=1)] = None,
    grid: Annotated[list[str] | None, typer.Option(help="KEY=A,B: a run for every combination.")] = None,
    together: Annotated[
        int, typer.Option(help="Rows scored in one pass; 1: no answer depends on another row.", min=1)
    ] = 1,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for a task, or for your own files, and score it beside baselines."""
    from dataclasses import replace

    from unimo import distributed
    from unimo.config import override
    from unimo.finetune import finetune as run_finetuning
    from unimo.finetune import prepared
    from unimo.recipes.finetuning import find_tuning, is_small, ours

    run = find_tuning(task)
    run = prepared(run, None if source == "random" else source, like)
    if recipe not in ("released", "ours", "auto"):
        raise UsageError("no such recipe", where="--recipe", got=recipe, expected="released, ours or auto")
    if recipe == "ours" or (recipe == "auto" and is_small(run)):
        run = ours(run)
    given: dict[str, Any] = {"train": train, "dev": dev, "test": test, "images": images, "regions": regions}
    given = {name: tuple(paths) for name, paths in {**given, "columns": column}.items() if paths}
    run = replace(run, data=replace(run.data, **given, reader=reader or run.data.reader))
    changes = list(assignments or ())
    for name, length in (("epochs", epochs), ("steps", steps), ("minutes", minutes)):
        if length is not None:
            others = [other for other in ("epochs", "steps", "minutes") if other != name]
            changes += [f"{name}={length}", *(f"{other}=none" for other in others)]
    if seed is not None:
        changes += [f"seed={seed}"]
    run = override(run, changes)
    folder = Path(out or f"runs/{Path(task).stem}")
    if seeds or grid:
        from unimo.sweep import sweep

        sweep(run, folder, seeds=seeds or 1, grid=grid or (), say=_say)
    else:
        run_finetuning(run, folder, resume=resume, say=_say, together=together)
    distributed.stop()


@app.command()
def quadrants(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder of all runs and of the table.")],
    plan: Annotated[
        str, typer.Option(help="A JSON file of tasks, or `scenes` for a run trained on the generated world.")
    ] = "scenes",
    minutes: Annotated[float, typer.Option(help="Of the whole call; what does not fit is named.")] = 15.0,
    random: Annotated[bool, typer.Option("--random", help="Every task from random weights too.")] = False,
    together: Annotated[int, typer.Option(help="Rows scored in one pass.", min=1)] = 16,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for tasks of all four quadrants, score them, and tell what it forgot; goes on where it was."""
    from unimo import distributed
    from unimo.quadrants import quadrants as run_quadrants

    options: dict[str, Any] = {"assignments": assignments or (), "together": together}
    run_quadrants(model, plan, out, minutes=minutes, random=random, say=_say, **options)
    distributed.stop()


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A fine-tuned run, one of its checkpoints, or a saved folder.")],
    data: Annotated[list[str], typer.Option(help="Rows to answer, labelled or not; may be given several times.")],
    out: Annotated[str, typer.Option(help="New file of predictions, a JSON line each.")] = "predictions.jsonl",
    images: Paths = None,
    regions: Paths = None,
    column: Annotated[list[str] | None, typer.Option(help="PART=COLUMN, if not as in training.")] = None,
    together: Annotated[int, typer.Option(help="Rows in one pass; 1: no answer depends on another row.", min=1)] = 1,
) -> None:
    """Answer new rows with a fine-tuned model: one prediction for each, with its id."""
    from unimo import report
    from unimo.predict import predict as run_prediction

    options: dict[str, Any] = {"images": images or (), "regions": regions or (), "columns": column or ()}
    scores = run_prediction(model, data, out, together=together, say=_say, **options)
    if scores:
        _say(report.scores_table({"title": "predictions", "scores": scores}))


@app.command("compare")
def compare_runs(
    runs: Annotated[
        list[str], typer.Argument(help="Evaluated runs, two or more; the first is what others differ from.")
    ],
    task: Annotated[list[str] | None, typer.Option(help="Only tasks whose name contains this.")] = None,
) -> None:
    """Print what differs between runs and all their scores with intervals, as one table."""
    from unimo.compare import compare

    _say("\n".join(compare(runs, tasks=task or ())))


@app.command("bench")
def run_benchmark(
    name: Annotated[str, typer.Argument(help="Which one: sharing, retrieval.")],
    model: Annotated[str | None, typer.Argument(help="Of retrieval: a run's folder or one of its checkpoints.")] = None,
    size: Annotated[str, typer.Option(help="Of sharing: size of the model.")] = "small",
    pairs: Paths = None,
    limit: Annotated[int | None, typer.Option(help="Of retrieval: pictures at most.", min=2)] = None,
    captions: Annotated[int | None, typer.Option(help="Of retrieval: captions of a picture at most.", min=1)] = None,
    shortlists: Annotated[str, typer.Option(help="Of retrieval: lengths, by commas.")] = "0,4,8,16,32,64,128",
    batch: Annotated[int, typer.Option(help="Of retrieval: pairs fused at a time.", min=1)] = 64,
    regions: Annotated[list[str] | None, typer.Option(help="UNIMO's regions, if not beside the shards.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where shard indexes go, if not beside the shards.")] = None,
    out: Annotated[str | None, typer.Option(help="Of retrieval: a JSON file for the result.")] = None,
) -> None:
    """Time two ways to the same end in turns, and print their ratio.

    sharing: many texts beside one picture, one JSON line each. retrieval: every pair fused, or a shortlist of each
    query only; the curve of quality and speed.
    """
    import json

    from unimo import bench

    if name != "retrieval":
        for row in bench.bench(name, size=size):
            _say(json.dumps(row))
        return
    from unimo import provenance
    from unimo.answer import load
    from unimo.config import write_json

    lengths = [length.strip() for length in shortlists.split(",")]
    if not all(length.isdecimal() for length in lengths):
        raise UsageError("a shortlist is a number", where="--shortlists", got=shortlists, expected="0,4,8,...")
    if model is None or not pairs:
        raise UsageError("what is to be asked?", expected="unimo bench retrieval MODEL --pairs PATH")
    answerer = load(model)
    answerer.size_of_batch = batch
    options: dict[str, Any] = {"limit": limit, "captions": captions, "regions": regions or (), "index_dir": index_dir}
    found = bench.retrieval(answerer, pairs, shortlists=[int(s) for s in lengths], say=_say, **options)
    found["facts"]["commit"] = provenance.commit() or "unknown (not a git checkout)"
    _say("\n".join(found["table"]))
    if out:
        write_json(out, found)


@app.command("recipes")
def list_recipes(name: Annotated[str | None, typer.Argument(help="Show all settings of this one.")] = None) -> None:
    """List the recipes of pre-training and fine-tuning, or one with all its settings."""
    from unimo import recipes
    from unimo.config import describe
    from unimo.recipes.finetuning import TUNINGS, find_tuning, story

    if name:
        _say("\n".join(describe(find_tuning(name) if name in TUNINGS else recipes.find(name))))
        return
    for each, function in recipes.RECIPES.items():
        _say(f"{each}\n    {(function.__doc__ or '').strip()}\n")
    for each in TUNINGS:
        _say(f"finetune {each}\n    {story(each)}\n")


@app.command("describe")
def describe_model(
    what: Annotated[str, typer.Argument(help="A recipe, a settings.json, a run's folder or a checkpoint.")],
    assignments: Sets = None,
) -> None:
    """Print a model's parts, parameter counts, arithmetic per sample and memory."""
    from unimo import checkpoint, recipes
    from unimo.config import from_dict, override
    from unimo.describe import describe
    from unimo.model.build import ModelSettings

    if (Path(what) / checkpoint.MANIFEST).exists():
        settings = from_dict(ModelSettings, checkpoint.load(what, groups=[]).state["settings"]["model"])
        settings = override(settings, [change.removeprefix("model.") for change in assignments or ()])
    else:
        settings = override(recipes.find(what), assignments or ()).model
    _say("\n".join(describe(settings)))


@app.command("index")
def make_index(
    model: Model,
    out: Annotated[str, typer.Option(help="New folder of the index.")],
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    precision: Annotated[str, typer.Option(help="Of the stored embeddings: float16 or float32.")] = "float16",
    passage: Annotated[int, typer.Option(help="Tokens of the passages that texts are cut into.", min=1)] = 128,
    regions: Annotated[list[str] | None, typer.Option(help="UNIMO's regions, if not beside the shards.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where shard indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every picture once, or read only its header")] = "decode",
    max_bad_share: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    ledger: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
) -> None:
    """Encode texts, pictures or pairs once, to be searched; started again, it goes on where it was."""
    from unimo.data.ledger import Ledger
    from unimo.retrieval import build_index

    given: dict[str, Any] = {"texts": texts, "images": images, "pairs": pairs, "regions": regions or ()}
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_share": max_bad_share}
    build_index(model, out, precision=precision, passage=passage, ledger=Ledger(ledger), say=_say, **given, **options)


@app.command()
def search(
    folder: Annotated[str, typer.Argument(help="An index, made by `unimo index`.")],
    text: Annotated[str | None, typer.Option(help="What is looked for, in words.")] = None,
    image: Annotated[str | None, typer.Option(help="What is looked for, as a picture file.")] = None,
    top: Annotated[int, typer.Option(help="How many to show.", min=1)] = 10,
    only: Annotated[str | None, typer.Option(help="Show only texts, or only images.")] = None,
    rerank: Annotated[int, typer.Option(help="So many of the nearest are read together with the query.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    model: Annotated[str | None, typer.Option(help="The model of the index, if it lies elsewhere by now.")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Read the whole index first.")] = True,
    approximate_above: Annotated[
        int | None, typer.Option(help="Rows beyond which the search is approximate (extra `faiss`).")
    ] = None,
    method: Annotated[str, typer.Option(help="Approximate search: ivf or hnsw.")] = "ivf",
) -> None:
    """Find texts and pictures by a text, a picture, or both."""
    import json

    from unimo.retrieval import open_index
    from unimo.retrieval.index import table

    options: dict[str, Any] = {"approximate_above": approximate_above, "method": method}
    index = open_index(folder, model=model, verify=verify, **options)
    hits = index.search(text, image, top=top, only=only, rerank=rerank)  # type: ignore[arg-type]
    for line in (json.dumps(hit.to_dict()) for hit in hits) if as_json else table(hits):
        _say(line)


@app.command()
def caption(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Picture files.")],
    beams: Annotated[int, typer.Option(help="Hypotheses kept; 1 is greedy.", min=1, max=64)] = 1,
) -> None:
    """Write a caption for each picture."""
    from unimo.answer import load

    for path, sentence in zip(images, load(model).caption(images, beams=beams)):
        _say(f"{path}: {sentence}")


@app.command("fill")
def fill_mask(
    model: Model,
    text: Annotated[str, typer.Argument(help="A sentence with one [MASK].")],
    image: Annotated[str | None, typer.Option(help="A picture to look at.")] = None,
    top: Annotated[int, typer.Option(help="How many words to show.", min=1)] = 5,
) -> None:
    """Fill in the [MASK] of a sentence, alone or beside a picture."""
    from unimo.answer import load

    for piece, probability in load(model).fill_mask(text, image, top=top):
        _say(f"{probability:6.1%} {piece!r}")


@app.command()
def classify(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Picture files.")],
    names: Annotated[str, typer.Option(help="Class names, separated by commas.")],
) -> None:
    """Choose a class name for each picture."""
    from unimo.answer import load

    classes = [name.strip() for name in names.split(",") if name.strip()]
    if not classes:
        raise UsageError("no class names", where="--names", got=names, expected="dog,cat,...")
    for path, row in zip(images, load(model).classify(images, classes)):
        best = int(row.argmax())
        _say(f"{path}: {classes[best]} ({row[best]:.1%})")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Published weights (folder or .pdparams), or a run of yours.")],
    out: Annotated[str, typer.Argument(help="New folder: weights, configuration, tokenizer, model card.")],
    ours: Annotated[bool, typer.Option("--ours", help="UNIMO-2 without the slips of the published graph.")] = False,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Tensors may be missing, left over or of another shape.")
    ] = False,
    assignments: Sets = None,
) -> None:
    """Turn published weights, or a run, into a folder that `unimo.load` and the hub understand."""
    from unimo.checkpoint import MANIFEST

    if any((Path(source) / name).exists() for name in ("checkpoints", MANIFEST)):
        from unimo.answer import load

        _say(f"saved {load(source, device='cpu', precision='fp32').save_pretrained(out)}")
        return
    from unimo.convert import convert_published, save_converted

    converted = convert_published(source, assignments=assignments or (), released=not ours, strict=not allow_difference)
    _say("\n".join(converted.table()))
    _say(f"saved {save_converted(converted, source, out)}")


@app.command()
def initialise(
    out: Annotated[str, typer.Argument(help="New folder, to `unimo pretrain RECIPE --start` from.")],
    recipe: Annotated[str, typer.Option(help="Recipe (or settings.json) whose model it shall be.")] = "base",
    roberta: Annotated[str | None, typer.Option(help="RoBERTa in Hugging Face format: folder or hub name.")] = None,
    vit: Annotated[str | None, typer.Option(help="ViT in Hugging Face format: folder or hub name.")] = None,
    seed: Annotated[int, typer.Option(help="Chance of everything neither of them has.")] = 0,
    assignments: Sets = None,
) -> None:
    """Build a model from RoBERTa's and ViT's weights, as the papers did before pre-training."""
    from unimo import recipes
    from unimo.config import override
    from unimo.convert import initialise as build_model

    settings = override(recipes.find(recipe), assignments or ()).model
    for line in build_model(out, settings, roberta=roberta, vit=vit, seed=seed):
        _say(line)


@prepare.command("index")
def prepare_index(
    kind: Annotated[str, typer.Argument(help="texts, images or pairs")],
    paths: Annotated[list[str], typer.Argument(help="Folders, globs or files.")],
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every picture once, or read only its header")] = "decode",
    max_bad_share: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    ledger: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
) -> None:
    """Check every sample and write each shard's index."""
    from unimo.data.ledger import Ledger
    from unimo.prepare.index import index

    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_share": max_bad_share}
    index(kind, paths, ledger=Ledger(ledger), say=_say, **options)  # type: ignore[arg-type]


@prepare.command("regions")
def prepare_regions(
    kind: Annotated[str, typer.Argument(help="images or pairs")],
    paths: Annotated[list[str], typer.Argument(help="Folders, globs or files.")],
    source: Annotated[
        str,
        typer.Option(help="truth, grid, grid:MODEL, detector:MODEL, faster-rcnn:, tsv:, npz:, hdf5:, lmdb:PLACE."),
    ] = "grid",
    out: Annotated[str | None, typer.Option(help="Where regions go, if not beside the shards.")] = None,
    most: Annotated[int, typer.Option(help="Boxes kept of a picture.", min=1)] = 36,
    precision: Annotated[str, typer.Option(help="float16, or int8 with a scale for each region.")] = "float16",
    top: Annotated[int, typer.Option(help="Likeliest classes kept of a region; 0 keeps all.", min=0)] = 0,
    feature_size: Annotated[int | None, typer.Option(help="Features of a region, where the source can choose.")] = None,
    words: Annotated[int, typer.Option(help="Size of a grid's visual vocabulary.", min=2)] = 512,
    vocabulary: Annotated[str | None, typer.Option(help="Its file: read if it is there, else written.")] = None,
    threshold: Annotated[float, typer.Option(help="Least confidence of a detected region.")] = 0.2,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: what is there.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    ledger: Annotated[str | None, typer.Option(help="File that names every bad picture.")] = None,
) -> None:
    """Write regions (boxes, features, classes) of every picture; started again, it goes on where it was."""
    from unimo.data.ledger import Ledger
    from unimo.prepare.regions import prepare_regions as run

    options: dict[str, Any] = {"most": most, "precision": precision, "top": top, "index_dir": index_dir}
    options |= {"feature_size": feature_size, "words": words, "vocabulary": vocabulary, "threshold": threshold}
    run(kind, paths, source, out=out, device=device, ledger=Ledger(ledger), say=_say, **options)  # type: ignore[arg-type]


@prepare.command("rewrites")
def prepare_rewrites(
    paths: Annotated[list[str], typer.Argument(help="Pairs: folders, globs or files.")],
    out: Annotated[str | None, typer.Option(help="Folder of the rewrites, if not beside the indexes.")] = None,
    positives: Annotated[int, typer.Option(help="Back-translations of each caption.", min=0)] = 3,
    sentences: Annotated[int, typer.Option(help="Near captions of other pictures.", min=0)] = 30,
    phrases: Annotated[int, typer.Option(help="Phrase level negatives.", min=0)] = 35,
    words: Annotated[int, typer.Option(help="Word level negatives.", min=0)] = 35,
    ceiling: Annotated[float, typer.Option(help="TF-IDF similarity from which on a caption is a paraphrase.")] = 0.5,
    translate: Annotated[
        list[str] | None, typer.Option(help="THERE,BACK: two translation models; once for each pivot.")
    ] = None,
    seed: Annotated[int, typer.Option(help="All chance of the rewriting.")] = 0,
    device: Annotated[str, typer.Option(help="Where translation models run.")] = "cpu",
    index_dir: Annotated[str | None, typer.Option(help="Where indexes are, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode or header, as for the index")] = "decode",
    ledger: Annotated[str | None, typer.Option(help="File that names every bad sample and caption.")] = None,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random captions.")] = None,
    rows: Annotated[int, typer.Option(help="Captions on the page.", min=1)] = 50,
    sample: Annotated[
        int | None, typer.Option(help="Write so many negatives to be judged: rewrites-sample.jsonl in --out.", min=1)
    ] = None,
    draw: Annotated[int, typer.Option(help="Chance of page and sample alone.")] = 0,
) -> None:
    """Rewrite every caption: paraphrases, and captions that are nearly right."""
    from unimo.data.ledger import Ledger
    from unimo.prepare.back_translation import pivots
    from unimo.prepare.rewrites import Counts, rewrites

    counts = Counts(positives, sentences, phrases, words)
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify}
    made: dict[str, Any] = {"counts": counts, "ceiling": ceiling, "translate": pivots(translate or []), "seed": seed}
    rewrites(paths, out=out, device=device, ledger=Ledger(ledger), say=_say, **made, **options)
    if page or sample:
        from unimo.data.rewrites import Rewrites
        from unimo.data.sources import open_corpus
        from unimo.prepare.rewrites_page import show
        from unimo.prepare.rewrites_sample import write_sample
        from unimo.tokenizer import Tokenizer

        corpus = open_corpus("pairs", paths, tokenizer=Tokenizer.default(), **options)
        written = Rewrites.open(out or index_dir, corpus)
        if page:
            show(corpus, written, page, n=rows, seed=draw)
        if sample:
            place = Path(out or ".") / "rewrites-sample.jsonl"
            _say(f"{write_sample(corpus, written, place, n=sample, seed=draw)} negatives to judge: {place}")


@prepare.command("neighbours")
def prepare_neighbours(
    pairs: Annotated[list[str], typer.Option(help="Pairs to find neighbours for.")],
    out: Annotated[str, typer.Option(help="Folder for the neighbours.")],
    images: Annotated[list[str] | None, typer.Option(help="Where related pictures come from.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="Where related sentences come from.")] = None,
    model: Annotated[str | None, typer.Option(help="A model whose embeddings rank (a run, a folder).")] = None,
    regions: Annotated[
        list[str] | None, typer.Option(help="Prepared regions of both: shared objects then choose.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Least probability of an object's class.", min=0, max=1)] = 0.2,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as sentences=50.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every picture once, or read only its header")] = "decode",
    max_bad_share: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    ledger: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work on the cluster that ray finds.")] = False,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random pairs.")] = None,
    rows: Annotated[int, typer.Option(help="Pairs on the page.", min=1)] = 50,
    draw: Annotated[int, typer.Option(help="Chance of the page.")] = 0,
) -> None:
    """Find related pictures and sentences for every pair."""
    from unimo.config import override
    from unimo.data.ledger import Ledger
    from unimo.prepare.neighbours import NeighbourSettings, neighbours

    settings = override(NeighbourSettings(), assignments or ())
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_share": max_bad_share}
    options |= {"model": model, "settings": settings, "ledger": Ledger(ledger), "ray": ray, "say": _say}
    options |= {"regions": regions or None, "confidence": confidence, "page": page, "rows": rows, "draw": draw}
    neighbours(pairs, images or None, texts or None, out, **options)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        _say(f"unimo {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command line; every known fault ends as a few readable lines and its own exit code."""
    try:
        app(standalone_mode=True)
    except UnimoError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("UNIMO_TRACEBACK"):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        _tell(
            UnimoError(
                "a fault of unimo's own",
                where=f"{Path(where.filename).name}, line {where.lineno}",
                got=f"{type(error).__name__}: {error}",
                do=f"UNIMO_TRACEBACK=1 {shlex.join(['unimo', *sys.argv[1:]])} shows all of it; please report it",
            )
        )
        sys.exit(UnimoError.exit_code)


def _tell(error: UnimoError) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks for all
    parts = error.parts()
    print(f"error: {parts.pop('what')}", file=sys.stderr)
    for name, value in parts.items():
        print(f"  {name + ':':<10}{value}", file=sys.stderr)


def _say(line: str) -> None:
    print(line, flush=True)
