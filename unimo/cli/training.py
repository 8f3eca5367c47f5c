"""Verbs that train a model and score what it learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Columns, Log, Model, Paths, Sets, app, say


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `unimo recipes`), a run's folder, or a settings.json.")
    ] = "scenes",
    texts: Annotated[list[str] | None, typer.Option(help="Texts without images: folders, globs or files.")] = None,
    images: Annotated[list[str] | None, typer.Option(help="Images without texts: folders, globs or files.")] = None,
    pairs: Annotated[list[str] | None, typer.Option(help="Images with captions: folders, globs or files.")] = None,
    column: Columns = None,
    val_texts: Annotated[list[str] | None, typer.Option(help="Texts to validate on; default a part held out.")] = None,
    val_images: Annotated[list[str] | None, typer.Option(help="Images whose class names are predicted.")] = None,
    val_pairs: Annotated[list[str] | None, typer.Option(help="Pairs to validate on; default a part held out.")] = None,
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
    log: Log = None,
    assignments: Sets = None,
    evaluation: Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Evaluate at the end.")] = True,
) -> None:
    """Train on pairs, images and texts, whichever there are; validate on the way and evaluate what came out.

    Validated on --val-pairs and --val-texts, else on a part held out of training (--set data.val_fraction=0: none).
    """
    from dataclasses import replace

    from unimo import distributed, recipes
    from unimo.config import override
    from unimo.evaluation.validation import validator
    from unimo.train.loop import check_folder, train
    from unimo.train.pretraining import Pretraining

    run = recipes.find(recipe)
    given = {"texts": texts, "images": images, "pairs": pairs}
    validation = {"val_texts": val_texts, "val_images": val_images, "val_pairs": val_pairs}
    run = recipes.with_data(recipe, run, given, validation)
    if column:
        run = replace(run, data=replace(run.data, columns=tuple(column)))
    changes = list(assignments or ())
    if minutes is not None:
        changes += [f"minutes={minutes}", "steps=none"]
    if steps is not None:
        changes += [f"steps={steps}", "minutes=none"]
    changes += [f"{name}={value}" for name, value in (("seed", seed), ("log", log)) if value is not None]
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
    train(Pretraining(run, validator), folder, resume=resume, say=say)
    distributed.stop()
    if rank == 0 and evaluation:
        from unimo.evaluation.evaluate import evaluate as run_evaluation

        run_evaluation(folder, say=say)


@app.command()
def evaluate(
    model: Model,
    pairs: Paths = None,
    images: Paths = None,
    texts: Paths = None,
    column: Columns = None,
    foils: Annotated[str | None, typer.Option(help="A .jsonl of true and false captions of the pairs.")] = None,
    regions: Paths = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given several times.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the report; default the run's own.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no task after so long.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images in a forward pass.", min=1)] = 64,
    assignments: Sets = None,
) -> None:
    """Score a model on the data given, else on its validation data; writes evaluation.json and report.html.

    Of --images the class names are read, of --texts and --pairs masked words; --pairs also give retrieval and captions.
    """
    from dataclasses import replace

    from unimo.config import override
    from unimo.evaluation.evaluate import evaluate as run_evaluation
    from unimo.evaluation.plan import EvaluationData

    given = {"pairs": pairs, "images": images, "texts": texts, "regions": regions, "tasks": task, "columns": column}
    data = override(EvaluationData(), assignments or ())
    changes: dict[str, Any] = {name: tuple(values) for name, values in given.items() if values}
    data = replace(data, **changes, foils=foils or data.foils)
    run_evaluation(model, out=out, data=data, minutes=minutes, batch_size=batch_size, say=say)
