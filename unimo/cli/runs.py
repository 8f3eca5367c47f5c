"""Verbs that tell about runs, recipes and models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimo.cli.app import Paths, Sets, app, say
from unimo.errors import DataError, UsageError

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
    name: Annotated[str, typer.Argument(help="Which one: sharing, mask, retrieval.")],
    model: Annotated[str | None, typer.Argument(help="Of retrieval: a run's folder or one of its checkpoints.")] = None,
    size: Annotated[str, typer.Option(help="Of sharing: size of the model.")] = "small",
    pairs: Paths = None,
    limit: Annotated[int | None, typer.Option(help="Of retrieval: images at most.", min=2)] = None,
    captions: Annotated[int | None, typer.Option(help="Of retrieval: captions of an image at most.", min=1)] = None,
    shortlists: Annotated[str, typer.Option(help="Of retrieval: lengths, by commas.")] = "0,4,8,16,32,64,128",
    batch_size: Annotated[int, typer.Option(help="Of retrieval: pairs fused at a time.", min=1)] = 64,
    regions: Annotated[list[str] | None, typer.Option(help="UNIMO's regions, if not beside the shards.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where shard indexes go, if not beside the shards.")] = None,
    out: Annotated[str | None, typer.Option(help="Of retrieval: a JSON file for the result.")] = None,
) -> None:
    """Time two ways to the same end in turns, and print their ratio.

    sharing: many texts beside one image; mask: who sees whom in a long packed row; one JSON line each. retrieval:
    every pair fused, or a shortlist of each query only: recalls and fused passes by its length.
    """
    import json

    from unimo import speed

    if name != "retrieval":
        for row in speed.measure(name, size=size):
            say(json.dumps(row))
        return
    from unimo.inference import load
    from unimo.json_files import write_json
    from unimo.train import provenance

    lengths = [length.strip() for length in shortlists.split(",")]
    if not all(length.isdecimal() for length in lengths):
        raise UsageError("a shortlist is a number", where="--shortlists", got=shortlists, expected="0,4,8,...")
    if model is None or not pairs:
        raise UsageError("what is to be measured?", expected="unimo speed retrieval MODEL --pairs PATH")
    options: dict[str, Any] = {"limit": limit, "captions": captions, "regions": regions or (), "index_dir": index_dir}
    options["batch_size"] = batch_size
    found = speed.retrieval(load(model), pairs, shortlists=[int(s) for s in lengths], say=say, **options)
    found["facts"]["commit"] = provenance.commit() or "unknown (not a git checkout)"
    say("\n".join(found["table"]))
    if out:
        write_json(out, found)


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
