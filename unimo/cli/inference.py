"""Verbs that ask a trained model: search, captions, missing words, classes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from unimo.cli.app import AnyModel, Columns, Paths, app, say
from unimo.errors import UsageError


@app.command("index")
def make_index(
    model: AnyModel,
    out: Annotated[str, typer.Option(help="Folder of the index.")],
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    add: Annotated[bool, typer.Option("--add", help="Add to the finished index in that folder.")] = False,
    approximate: Annotated[bool, typer.Option("--approximate", help="Also write an inverted file (IVF).")] = False,
    passage: Annotated[int, typer.Option(help="Tokens of the passages that texts are cut into.", min=1)] = 128,
    regions: Annotated[list[str] | None, typer.Option(help="UNIMO's regions, if not beside the shards.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where shard indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every image once, or read only its header")] = "decode",
    max_bad_fraction: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
    column: Columns = None,
) -> None:
    """Encode texts, images or pairs once, to be searched; started again, it goes on where it was."""
    from unimo.corpus.bad_samples import BadSamples
    from unimo.retrieval import build_index

    given: dict[str, Any] = {"texts": texts, "images": images, "pairs": pairs, "regions": regions or ()}
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    options |= {
        "columns": column or (),
        "add": add,
        "approximate": approximate,
        "passage": passage,
        "bad_samples": BadSamples(bad_samples),
        "say": say,
    }
    build_index(model, out, **given, **options)


@app.command()
def search(
    folder: Annotated[str, typer.Argument(help="An index, made by `unimo index`.")],
    text: Annotated[str | None, typer.Option(help="What is looked for, in words.")] = None,
    image: Annotated[str | None, typer.Option(help="What is looked for, as an image file.")] = None,
    top_k: Annotated[int, typer.Option(help="How many to show.", min=1)] = 10,
    only: Annotated[str | None, typer.Option(help="Show only texts, or only images.")] = None,
    rerank: Annotated[int, typer.Option(help="So many of the nearest are read together with the query.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    model: Annotated[str | None, typer.Option(help="The model of the index, if it lies elsewhere by now.")] = None,
    approximate: Annotated[bool, typer.Option("--approximate", help="Search the inverted file; may miss.")] = False,
) -> None:
    """Find texts and images by a text, an image, or both.

    Prints rank, cosine, with --rerank the score of reading both together (log-odds), kind, file and key, and the text.
    """
    import json

    from unimo.retrieval import open_index
    from unimo.retrieval.index import table

    index = open_index(folder, model=model, approximate=approximate)
    hits = index.search(text, image, top_k=top_k, only=only, rerank=rerank)  # type: ignore[arg-type]
    for line in (json.dumps(hit.to_dict()) for hit in hits) if as_json else table(hits):
        say(line)


@app.command()
def caption(
    model: AnyModel,
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    num_beams: Annotated[int, typer.Option(help="Hypotheses kept; 1 is greedy.", min=1, max=64)] = 1,
    max_length: Annotated[int, typer.Option(help="Tokens of a caption at most.", min=1)] = 50,
    min_length: Annotated[int, typer.Option(help="Tokens of a caption at least.", min=0)] = 0,
    no_repeat_ngram_size: Annotated[int, typer.Option(help="No n words in a row twice; 0: they may.", min=0)] = 0,
    temperature: Annotated[float | None, typer.Option(help="Sample with this temperature instead.")] = None,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0: all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Random seed of sampling.")] = 0,
) -> None:
    """Write a caption for each image."""
    from unimo.inference import load

    options: dict[str, Any] = {"num_beams": num_beams, "max_length": max_length, "min_length": min_length}
    options |= {"no_repeat_ngram_size": no_repeat_ngram_size, "temperature": temperature}
    options |= {"top_k": top_k, "top_p": top_p, "seed": seed}
    for path, sentence in zip(images, load(model).caption(images, **options)):
        say(f"{path}: {sentence}")


@app.command("fill-mask")
def fill_mask(
    model: AnyModel,
    text: Annotated[str, typer.Argument(help="A sentence with one [MASK].")],
    image: Annotated[str | None, typer.Option(help="An image to look at.")] = None,
    top_k: Annotated[int, typer.Option(help="How many words to show.", min=1)] = 5,
) -> None:
    """Fill in the [MASK] of a sentence, alone or beside an image."""
    from unimo.inference import load

    for piece, probability in load(model).fill_mask(text, image, top_k=top_k):
        say(f"{probability:6.1%} {piece!r}")


@app.command()
def classify(
    model: AnyModel,
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    names: Annotated[str, typer.Option(help="Class names, separated by commas.")],
) -> None:
    """Choose a class name for each image."""
    from unimo.inference import load

    classes = [name.strip() for name in names.split(",") if name.strip()]
    if not classes:
        raise UsageError("no class names", where="--names", got=names, expected="dog,cat,...")
    for path, row in zip(images, load(model).classify(images, classes)):
        best = int(row.argmax())
        say(f"{path}: {classes[best]} ({row[best]:.1%})")
