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
    name: Annotated[str, typer.Argument(help="Which one: sharing.")],
    size: Annotated[str, typer.Option(help="Size of the model.")] = "small",
) -> None:
    """Time two ways to the same end in turns, and print their ratio as one JSON line each."""
    import json

    from unimo.bench import bench

    for row in bench(name, size=size):
        _say(json.dumps(row))


@app.command("recipes")
def list_recipes(name: Annotated[str | None, typer.Argument(help="Show all settings of this one.")] = None) -> None:
    """List the recipes, or one with all its settings."""
    from unimo import recipes
    from unimo.config import describe

    if name:
        _say("\n".join(describe(recipes.find(name))))
        return
    for each, function in recipes.RECIPES.items():
        _say(f"{each}\n    {(function.__doc__ or '').strip()}\n")


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


@app.command()
def search(
    model: Model,
    query: Annotated[str, typer.Argument(help="A sentence, or the path of a picture.")],
    images: Annotated[list[str], typer.Option(help="Pictures to search: folder, glob, file or tar.")],
    top: Annotated[int, typer.Option(help="How many to show.", min=1)] = 10,
) -> None:
    """Find pictures by a sentence or by another picture."""
    import numpy as np

    from unimo.answer import load
    from unimo.data.sources import open_corpus

    answerer = load(model)
    corpus = open_corpus("images", images)
    gallery = answerer.embed_image(corpus.image_bytes(i) for i in range(len(corpus)))
    wanted = answerer.embed_image([query]) if Path(query).is_file() else answerer.embed_text([query])
    scores = gallery @ wanted[0]
    for i in np.argsort(-scores)[:top]:
        _say(f"{scores[i]:.3f}  {corpus.where(int(i))}")


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
    page: Annotated[str | None, typer.Option(help="Write an HTML page with 50 random captions.")] = None,
) -> None:
    """Rewrite every caption: paraphrases, and captions that are nearly right."""
    from unimo.data.ledger import Ledger
    from unimo.prepare.back_translation import pivots
    from unimo.prepare.rewrites import Counts, rewrites

    counts = Counts(positives, sentences, phrases, words)
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify}
    made: dict[str, Any] = {"counts": counts, "ceiling": ceiling, "translate": pivots(translate or []), "seed": seed}
    rewrites(paths, out=out, device=device, ledger=Ledger(ledger), say=_say, **made, **options)
    if page:
        from unimo.data.rewrites import Rewrites
        from unimo.data.sources import open_corpus
        from unimo.prepare.rewrites_page import show
        from unimo.tokenizer import Tokenizer

        corpus = open_corpus("pairs", paths, tokenizer=Tokenizer.default(), **options)
        show(corpus, Rewrites.open(out or index_dir, corpus), page)


@prepare.command("neighbours")
def prepare_neighbours(
    pairs: Annotated[list[str], typer.Option(help="Pairs to find neighbours for.")],
    out: Annotated[str, typer.Option(help="Folder for the neighbours.")],
    images: Annotated[list[str] | None, typer.Option(help="Where related pictures come from.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="Where related sentences come from.")] = None,
    model: Annotated[str | None, typer.Option(help="A model whose embeddings rank (a run, a folder).")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as sentences=50.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every picture once, or read only its header")] = "decode",
    max_bad_share: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    ledger: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work on the cluster that ray finds.")] = False,
) -> None:
    """Find related pictures and sentences for every pair."""
    from unimo.config import override
    from unimo.data.ledger import Ledger
    from unimo.prepare.neighbours import NeighbourSettings, neighbours

    settings = override(NeighbourSettings(), assignments or ())
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_share": max_bad_share}
    options |= {"model": model, "settings": settings, "ledger": Ledger(ledger), "ray": ray, "say": _say}
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
