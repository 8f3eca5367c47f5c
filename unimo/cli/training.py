"""Verbs that train a model and score what it learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Columns, Model, Paths, Sets, app, say


@app.command()
def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `unimo recipes`), or a settings.json.")
    ] = "scenes",
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    column: Columns = None,
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
    if column:
        run = replace(run, data=replace(run.data, columns=tuple(column)))
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
) -> None:
    """Score a model on everything its data allow; writes evaluation.json and report.html."""
    from unimo.config import override
    from unimo.evaluation.evaluate import EvaluationData
    from unimo.evaluation.evaluate import evaluate as run_evaluation

    run_evaluation(model, out=out, data=override(EvaluationData(), assignments or ()), minutes=minutes, say=say)
