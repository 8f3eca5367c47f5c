"""Verbs that tell about runs, recipes and models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unimo.cli.app import Sets, app, say
from unimo.errors import DataError

if TYPE_CHECKING:
    from unimo.model.build import ModelSettings


@app.command("compare")
def compare_runs(
    runs: Annotated[
        list[str], typer.Argument(help="Evaluated runs, two or more; the first is what others differ from.")
    ],
    task: Annotated[list[str] | None, typer.Option(help="Only tasks whose name contains this.")] = None,
) -> None:
    """Print which run is better, whether unpaired data helped, what differs between runs, and all their scores.

    Scores over the same items are compared item by item (paired 95 % interval).
    """
    from unimo.evaluation.compare import compare

    say("\n".join(compare(runs, tasks=task or ())))


@app.command("speed")
def measure_speed(
    name: Annotated[str | None, typer.Argument(help="Which one, of those below.")] = None,
    size: Annotated[str, typer.Option(help="Size of the model.")] = "small",
    rounds: Annotated[int, typer.Option(help="Rounds in turns, after one that warms up.", min=1)] = 7,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="BEFORE AFTER", help="Compare two files of such lines instead.")
    ] = None,
) -> None:
    """Time two ways to the same end in turns, and print their ratio as JSON lines.

    embed, generate, search: beside CLIP, BLIP and faiss; growth: what a larger corpus costs; load: memory of opening;
    sharing: many texts beside one image; mask: who sees whom in a long packed row; onnx: exported graphs, int8 too;
    train: a training step, with Muon in float32 too, and at base size beside FLAVA and CLIP.
    """
    import json

    from unimo import speed
    from unimo.speed.compare import compare as compared

    if compare:
        say("\n".join(compared(*compare)))
        return
    for row in speed.measure(name, size=size, rounds=rounds):
        say(json.dumps(row))


@app.command("recipes")
def list_recipes(name: Annotated[str | None, typer.Argument(help="Show all settings of this one.")] = None) -> None:
    """List the recipes of pre-training and fine-tuning, or one with all its settings."""
    from unimo import recipes
    from unimo.config import describe
    from unimo.recipes.finetuning import TUNINGS, find_tuning, story

    if name:
        say("\n".join(describe(find_tuning(name) if name in TUNINGS else recipes.find(name))))
        return
    for each, function in recipes.RECIPES.items():
        say(f"{each}\n    {(function.__doc__ or '').strip()}\n")
    for each in TUNINGS:
        say(f"finetune {each}\n    {story(each)}\n")


@app.command("describe")
def describe_model(
    what: Annotated[str, typer.Argument(help="A recipe, a settings.json, a run, a checkpoint or a saved folder.")],
    assignments: Sets = None,
) -> None:
    """Print a model's parts, parameter counts, arithmetic per sample and memory."""
    from unimo.config import override
    from unimo.describe import describe

    changes = [change.removeprefix("model.") for change in assignments or ()]
    say("\n".join(describe(override(_model_settings(what), changes))))


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a run's folder, or a settings.json.")],
    gpus: Annotated[int, typer.Option(help="GPUs of the run.", min=1, max=1 << 20)] = 8,
    memory: Annotated[float, typer.Option(help="GiB of each GPU.", min=0.01, max=1e6)] = 80.0,
    pairs: Annotated[int | None, typer.Option(help="Pairs in a step, in place of the recipe's.", min=1)] = None,
    tflops: Annotated[float, typer.Option(help="Peak TFLOP/s of a GPU.", min=0.001, max=1e9)] = 790.0,
    utilisation: Annotated[
        float, typer.Option(help="Fraction of it that training reaches (MFU).", min=0.001, max=1)
    ] = 0.4,
    bandwidth: Annotated[float, typer.Option(help="GB/s between GPUs.", min=0.001, max=1e6)] = 50.0,
    price: Annotated[float, typer.Option(help="Price of a GPU-hour.", min=0, max=1e6)] = 2.0,
    caption: Annotated[int, typer.Option(help="Tokens of a typical caption.", min=3, max=512)] = 20,
    assignments: Sets = None,
) -> None:
    """Print what a pre-training run needs on GPUs: memory by part, communication, steps per second, days and cost.

    One step is gone through with tensors that have shapes only: no GPU and no data are needed.
    """
    from unimo import recipes
    from unimo.config import override
    from unimo.train.plan import GIB, Machine
    from unimo.train.plan import plan as lines

    changes = [*([] if pairs is None else [f"batch.pairs={pairs}"]), *(assignments or ())]
    run = override(recipes.find(recipe), changes)
    machine = Machine(gpus, memory * GIB, tflops * 1e12, utilisation, bandwidth * 1e9, price)
    say("\n".join(lines(run, machine, caption)))


def _model_settings(what: str) -> ModelSettings:
    """Of a recipe; of the settings.json of a run, pre-training or fine-tuning; else of what is saved there."""
    from unimo import recipes
    from unimo.config import from_dict
    from unimo.json_files import load_json
    from unimo.model.build import ModelSettings
    from unimo.weights.loading import settings_and_words

    place = Path(what)
    file = place / "settings.json" if place.is_dir() else place
    if file.suffix == ".json" and file.is_file():
        settings = load_json(file)
        model = settings.get("model") if isinstance(settings, dict) else None
        if not isinstance(model, dict):
            raise DataError("not the settings of a run", where=file, expected='a "model"')
        return from_dict(ModelSettings, model, where="model")
    return settings_and_words(what)[0] if place.is_dir() else recipes.find(what).model
