"""Verbs that train a model and score what it learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Model, Paths, Sets, app, say
from unimo.errors import UsageError

BatchSize = Annotated[
    int | None,
    typer.Option(help="Rows in a forward pass when scoring (32); 1: answers do not depend on each other.", min=1),
]


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `unimo recipes`), or a settings.json.")
    ] = "scenes",
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/RECIPE.")] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Weights to start from: a run, saved folder or hub name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Train for so long (the learning rate follows the clock).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps (exactly resumable).")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    assignments: Sets = None,
    evaluation: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate at the end.")] = True,
) -> None:
    """Train on three folders (texts, images, pairs) and evaluate what came out."""
    from dataclasses import replace

    from unimo import distributed, recipes
    from unimo.config import override
    from unimo.train.loop import check_folder, train

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
    if init_from is not None:
        run = replace(run, init_from=init_from)
    folder = Path(out or f"runs/{Path(recipe).stem}")
    check_folder(folder, resume)  # before a world is written for it
    rank, _ = distributed.start()
    with distributed.collective_errors():  # one process writes the world, the others then find it
        if rank == 0:
            run = recipes.with_world(recipe, run, folder, say)
    run = recipes.with_world(recipe, run, folder, lambda _: None)
    train(run, folder, resume=resume, say=say)
    distributed.stop()
    if rank == 0 and evaluation:
        from unimo.evaluation.evaluate import evaluate as run_evaluation

        run_evaluation(folder, say=say)


@app.command()
def evaluate(
    model: Model,
    out: Annotated[str | None, typer.Option(help="Folder of the report; default the run's own.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no task after so long.")] = None,
    assignments: Sets = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Fine-tune and score the benchmark suite in --out, as `unimo benchmark`; --set then sets fine-tuning.",
        ),
    ] = False,
    plan: Annotated[str | None, typer.Option(help="With --all: a JSON file of tasks; default `scenes`.")] = None,
    random: Annotated[bool, typer.Option("--random", help="With --all: every task from random weights too.")] = False,
) -> None:
    """Score a model on everything its data allow; writes evaluation.json and report.html."""
    from unimo.config import override
    from unimo.evaluation.evaluate import EvaluationData
    from unimo.evaluation.evaluate import evaluate as run_evaluation

    if everything:
        if out is None:
            what, do = "where should the runs and the table go?", "name their folder with --out"
            raise UsageError(what, where="--all", got="no --out", do=do)
        length = 15.0 if minutes is None else minutes
        benchmark(model, out, plan or "scenes", minutes=length, random=random, assignments=assignments)
        return
    if plan or random:
        raise UsageError("an option of the benchmark suite", where="--plan, --random", do="add --all")
    run_evaluation(model, out=out, data=override(EvaluationData(), assignments or ()), minutes=minutes, say=say)


@app.command()
def finetune(
    task: Annotated[
        str, typer.Argument(help="A benchmark, or classification, regression, generation, captions, retrieval.")
    ],
    source: Annotated[
        str, typer.Option("--init-from", help="Weights to start from: a run, saved folder or hub name; or `random`.")
    ],
    train: Paths = None,
    dev: Paths = None,
    test: Paths = None,
    images: Paths = None,
    regions: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/TASK.")] = None,
    like: Annotated[
        str | None, typer.Option(help="With --init-from random: the run whose model settings to take.")
    ] = None,
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
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Make so many runs, with seeds from 1 on.", min=1)] = None,
    grid: Annotated[list[str] | None, typer.Option(help="KEY=A,B: a run for every combination.")] = None,
    batch_size: BatchSize = None,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for a task, or for your own files, and score it beside baselines."""
    from dataclasses import replace

    from unimo import distributed
    from unimo.config import override
    from unimo.finetune.job import finetune as run_finetuning
    from unimo.finetune.job import prepared
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
        from unimo.finetune.sweep import sweep

        if seed is not None:
            what, do = "a sweep gives its runs their seeds", "leave --seed out; --seeds N makes 1 to N"
            raise UsageError(what, where="--seed", got=seed, do=do)
        sweep(run, folder, seeds=seeds or 1, grid=grid or (), say=say, batch_size=batch_size)
    else:
        run_finetuning(run, folder, resume=resume, say=say, batch_size=batch_size)
    distributed.stop()


@app.command()
def benchmark(
    model: Model,
    out: Annotated[str, typer.Option(help="Folder of all runs and of the table.")],
    plan: Annotated[
        str, typer.Option(help="A JSON file of tasks, or `scenes` for a run trained on the generated world.")
    ] = "scenes",
    minutes: Annotated[float, typer.Option(help="Of the whole call; what does not fit is named.")] = 15.0,
    random: Annotated[bool, typer.Option("--random", help="Every task from random weights too.")] = False,
    seeds: Annotated[
        int, typer.Option(help="With --random: so many seeds of a task whose first is not better.", min=1)
    ] = 1,
    batch_size: BatchSize = None,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for every task of a benchmark suite and score it; started again, it goes on where it was."""
    from unimo import distributed
    from unimo.benchmark.suite import run_suite

    options: dict[str, Any] = {"assignments": assignments or (), "batch_size": batch_size}
    run_suite(model, plan, out, minutes=minutes, random=random, seeds=seeds, say=say, **options)
    distributed.stop()


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A fine-tuned run, one of its checkpoints, or a saved folder.")],
    data: Annotated[list[str], typer.Option(help="Rows to answer, labelled or not; may be given several times.")],
    out: Annotated[str, typer.Option(help="New file of predictions, a JSON line each.")] = "predictions.jsonl",
    images: Paths = None,
    regions: Paths = None,
    column: Annotated[list[str] | None, typer.Option(help="PART=COLUMN, if not as in training.")] = None,
    batch_size: BatchSize = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with an error if any row cannot be answered, and write nothing.")
    ] = False,
) -> None:
    """Answer new rows with a fine-tuned model: one prediction for each, with its id."""
    from unimo.evaluation import report
    from unimo.finetune.predict import predict as run_prediction

    options: dict[str, Any] = {"images": images or (), "regions": regions or (), "columns": column or ()}
    scores = run_prediction(model, data, out, batch_size=batch_size, strict=strict, say=say, **options)
    if scores:
        say(report.scores_table({"title": "predictions", "scores": scores}))
