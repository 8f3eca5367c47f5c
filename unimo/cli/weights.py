"""Verbs that turn weights of others into ours, and ours into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimo.cli.app import AnyModel, Sets, app, say
from unimo.errors import UsageError


@app.command()
def download(
    name: Annotated[str | None, typer.Argument(help="A published model; without a name they are listed.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest the archive must have; else as first fetched.")] = None,
    keep_archive: Annotated[bool, typer.Option("--keep-archive", help="Keep the archive after converting it.")] = False,
) -> None:
    """Fetch published weights into the cache ($UNIMO_CACHE or ~/.cache/unimo) for `unimo.load(NAME)`.

    Started again, a download that broke off resumes.
    """
    from unimo.cli.progress import progress_bar
    from unimo.weights import published

    if name is None:
        for each, one in published.PUBLISHED.items():
            there = "downloaded" if (published.cache_folder() / "models" / each).is_dir() else one.address
            say(f"{each:<18} {one.what:<30} {there}")
        return
    with progress_bar(name, "bytes") as progress:
        folder = published.download(name, sha256=sha256, keep_archive=keep_archive, progress=progress, say=say)
    say(f'saved {folder}; in Python: unimo.load("{name}")')


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="Published weights (folder, file, .tar.gz or address), or a run of yours.")
    ],
    out: Annotated[str, typer.Argument(help="New folder: weights, configuration, tokenizer, model card.")],
    ours: Annotated[bool, typer.Option("--ours", help="UNIMO-2 without the quirks of the published graph.")] = False,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Tensors may be missing, left over or of another shape.")
    ] = False,
    config: Annotated[
        str | None, typer.Option(help="Published configuration (.json), if it does not lie with the weights.")
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names in a combined file, one a line; by default names.txt beside it.")
    ] = None,
    assignments: Sets = None,
) -> None:
    """Turn published weights, or a run, into a folder that `unimo.load` and the hub understand."""
    from unimo.checkpoint import MANIFEST

    if any((Path(source) / name).exists() for name in ("checkpoints", MANIFEST)):
        from unimo.inference import load

        if ours or allow_difference or config or names or assignments:
            raise UsageError(
                "an option of published weights",
                where="--ours, --allow-difference, --config, --names, --set",
                got=f"a run: {source}",
                do="leave it away: a run is saved as it was trained",
            )
        say(f"saved {load(source, device='cpu', precision='fp32').save_pretrained(out)}")
        return
    from unimo.cli.progress import progress_bar
    from unimo.weights.archives import unpacked
    from unimo.weights.convert import convert_published, save_converted
    from unimo.weights.published import cache_folder

    with progress_bar("download", "bytes") as progress, unpacked(source, cache_folder(), progress=progress) as place:
        converted = convert_published(
            place,
            assignments=assignments or (),
            released=not ours,
            strict=not allow_difference,
            config=config,
            names=names,
        )
        say("\n".join(converted.table()))
        say(f"saved {save_converted(converted, source, out)}")


@app.command()
def export(
    model: AnyModel,
    out: Annotated[str, typer.Argument(help="New folder: image_tower, text_tower and caption_decoder as .onnx.")],
    precision: Annotated[str, typer.Option(help="fp32; int8: smaller, faster on CPUs, less exact.")] = "fp32",
    images: Annotated[list[str] | None, typer.Option(help="Images to measure on what int8 loses; else noise.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="Texts for the same; else random words.")] = None,
) -> None:
    """Write UNIMO-2's towers and its caption decoder as ONNX graphs, for onnxruntime."""
    from unimo.inference import load
    from unimo.inference.onnx import AGREEMENT, FACTS
    from unimo.inference.onnx import export as export_graphs
    from unimo.inference.rows import samples
    from unimo.json_files import load_json

    given = {"images": images and samples("image", images), "texts": texts and samples("text", texts)}
    pipeline = load(model, device="cpu", precision="fp32")
    for name, size in export_graphs(pipeline, out, precision=precision, **given).items():
        say(f"{name:<22} {size:>15,} bytes")
    for kind, cosine in load_json(Path(out) / FACTS).get(AGREEMENT, {}).items():
        of = f"{cosine['n']} {cosine['of']} {kind}s"
        say(f"{kind} embeddings, cosine with float32: {cosine['lowest']} lowest, {cosine['mean']} mean of {of}")


@app.command("init-from-pretrained")
def init_from_pretrained(
    out: Annotated[str, typer.Argument(help="New folder, to `unimo pretrain RECIPE --init-from`.")],
    recipe: Annotated[str, typer.Option(help="Recipe (or settings.json) for what their sizes do not say.")] = "base",
    roberta: Annotated[str | None, typer.Option(help="RoBERTa in Hugging Face format: folder or hub name.")] = None,
    vit: Annotated[str | None, typer.Option(help="ViT in Hugging Face format: folder or hub name.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of everything neither of them has.")] = 0,
    assignments: Sets = None,
) -> None:
    """Build a model from RoBERTa's and ViT's weights, as the papers did before pre-training."""
    from unimo import recipes
    from unimo.weights.init_from import init_from_pretrained as build_model

    changes = [change.removeprefix("model.") for change in assignments or ()]
    for line in build_model(out, recipes.find(recipe).model, roberta=roberta, vit=vit, assignments=changes, seed=seed):
        say(line)
