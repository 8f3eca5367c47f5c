"""Verbs of fine-tuning: one run, a sweep of runs, a benchmark suite, predictions for new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Log, Paths, Sets, app, say

Task = Annotated[
    str, typer.Argument(help="A benchmark, or classification, regression, generation, captions, retrieval.")
]
Source = Annotated[
    str, typer.Option("--init-from", help="Weights to start from: a run, saved folder or hub name; or `random`.")
]
Like = Annotated[str | None, typer.Option(help="With --init-from random: the run whose model settings to take.")]
Column = Annotated[
    list[str] | None, typer.Option(help="PART=COLUMN of your own file: text, text2, image, label, score, target.")
]
Reader = Annotated[str | None, typer.Option(help="How files are read; default: as the task says.")]
Recipe = Annotated[str, typer.Option(help="released, ours, or auto: ours for models smaller than the papers'.")]
Epochs = Annotated[float | None, typer.Option(help="Train for so many passes over the rows.")]
Steps = Annotated[int | None, typer.Option(help="Train for so many steps.")]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Rows in a forward pass when scoring (32); 1: answers do not depend on each other.", min=1),
]


@app.command()
def finetune(
    task: Task,
    source: Source,
    train: Paths = None,
    dev: Paths = None,
    test: Paths = None,
    images: Paths = None,
    regions: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default runs/TASK.")] = None,
    like: Like = None,
    column: Column = None,
    reader: Reader = None,
    recipe: Recipe = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    epochs: Epochs = None,
    steps: Steps = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so long.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    log: Log = None,
    batch_size: BatchSize = None,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for a task, or for your own files, and score it beside baselines."""
    from unimo import distributed
    from unimo.finetune.finetune import finetune as run_finetuning
    from unimo.recipes.finetuning import tuned

    data = {"train": train, "dev": dev, "test": test, "images": images, "regions": regions, "columns": column}
    changes = [*(assignments or ()), *_length(epochs=epochs, steps=steps, minutes=minutes)]
    changes += [f"{name}={value}" for name, value in (("seed", seed), ("log", log)) if value is not None]
    run = tuned(task, source, like=like, recipe=recipe, data=data, reader=reader, changes=changes)
    run_finetuning(run, out or f"runs/{Path(task).stem}", resume=resume, say=say, batch_size=batch_size)
    distributed.stop()


@app.command()
def sweep(
    task: Task,
    source: Source,
    train: Paths = None,
    dev: Paths = None,
    test: Paths = None,
    images: Paths = None,
    regions: Paths = None,
    out: Annotated[str | None, typer.Option(help="Folder of all runs; default runs/TASK-sweep.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=A,B: a run for every combination, such as optimizer.lr=1e-4,1e-3. Default: learning rate, its "
            "decay by layers, poolers kept or fresh, Muon over Q, K, V apart or fused, averaged weights or not."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of every combination, from 1 on.", min=1)] = 1,
    like: Like = None,
    column: Column = None,
    reader: Reader = None,
    recipe: Recipe = "auto",
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    assignments: Sets = None,
) -> None:
    """Fine-tune with every combination of a grid of settings, and choose on dev; writes a table with the chosen row."""
    from unimo import distributed
    from unimo.finetune.sweep import default_grid
    from unimo.finetune.sweep import sweep as run_sweep
    from unimo.recipes.finetuning import tuned

    data = {"train": train, "dev": dev, "test": test, "images": images, "regions": regions, "columns": column}
    changes = [*(assignments or ()), *_length(epochs=epochs, steps=steps)]
    run = tuned(task, source, like=like, recipe=recipe, data=data, reader=reader, changes=changes)
    choices = default_grid(run) if grid is None else grid
    run_sweep(run, out or f"runs/{Path(task).stem}-sweep", seeds=seeds, grid=choices, say=say, batch_size=batch_size)
    distributed.stop()


@app.command()
def benchmark(
    out: Annotated[str, typer.Option(help="Folder of all runs and of the table.")],
    model: Annotated[str | None, typer.Argument(help="A run's folder or one of its checkpoints.")] = None,
    plan: Annotated[
        str, typer.Option(help="A JSON file of tasks, or `scenes` for a run trained on the generated world.")
    ] = "scenes",
    minutes: Annotated[float, typer.Option(help="Of the whole call; what does not fit is named.")] = 15.0,
    random: Annotated[bool, typer.Option("--random", help="Every task from random weights too.")] = False,
    seeds: Annotated[
        int, typer.Option(help="With --random: so many seeds of a task whose first is not better.", min=1)
    ] = 1,
    campaign: Annotated[
        str | None,
        typer.Option(help="In place of MODEL: a JSON file of pre-trainings that differ in one ingredient each."),
    ] = None,
    batch_size: BatchSize = None,
    assignments: Sets = None,
) -> None:
    """Fine-tune a model for every task of a benchmark suite and score it; started again, it resumes."""
    from unimo import distributed
    from unimo.benchmark.campaign_run import run_campaign
    from unimo.benchmark.suite import run_suite
    from unimo.errors import UsageError

    if (model is None) == (campaign is None):
        what, expected = "what should be compared?", "MODEL or --campaign, one of both"
        raise UsageError(what, where="MODEL, --campaign", got=model or "none", expected=expected)
    if campaign is not None and (assignments or random or seeds > 1):
        what, do = "the settings of a campaign stand in its file", "fields finetune, runs and seeds of the campaign"
        raise UsageError(what, where="--set, --random, --seeds", got="an option beside --campaign", do=do)
    if campaign is not None:
        run_campaign(campaign, out, batch_size=batch_size, say=say)
        return distributed.stop()
    assert model is not None
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
    """Predict new rows with a fine-tuned model: one prediction for each, with its id."""
    from unimo.evaluation import report
    from unimo.finetune.predict import predict as run_prediction

    options: dict[str, Any] = {"images": images or (), "regions": regions or (), "columns": column or ()}
    scores = run_prediction(model, data, out, batch_size=batch_size, strict=strict, say=say, **options)
    if scores:
        say(report.scores_table({"title": "predictions", "scores": scores}))


def _length(**given: float | None) -> list[str]:
    """Settings of the one length that is given; the recipe's own is dropped."""
    changes = []
    for name in given:
        if given[name] is not None:
            others = [other for other in ("epochs", "steps", "minutes") if other != name]
            changes += [f"{name}={given[name]}", *(f"{other}=none" for other in others)]
    return changes
