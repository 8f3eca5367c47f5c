"""Verbs of a trained model: search, captions, classes, answers, embeddings, masked words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimo.cli.app import AnyModel, BatchSize, Column, Columns, Device, Images, Paths, Precision, RowsOut, app, say
from unimo.errors import DataError, UsageError

if TYPE_CHECKING:
    from unimo.inference.rows import Inputs


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
    max_bad_fraction: Annotated[float, typer.Option(help="Stop beyond this fraction of bad samples.")] = 0.01,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
    column: Columns = None,
    device: Device = None,
) -> None:
    """Encode texts, images or pairs once, to be searched; started again, it resumes."""
    from unimo.corpus.bad_samples import BadSamples
    from unimo.retrieval import build_index

    given: dict[str, Any] = {"texts": texts, "images": images, "pairs": pairs, "regions": regions or ()}
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    options |= {"add": add, "approximate": approximate, "passage": passage, "bad_samples": BadSamples(bad_samples)}
    options |= {"columns": column or (), "device": device, "say": say}
    build_index(model, out, **given, **options)


@app.command()
def search(
    folder: Annotated[str, typer.Argument(help="An index, made by `unimo index`.")],
    text: Annotated[str | None, typer.Option(help="What is looked for, in words.")] = None,
    image: Annotated[str | None, typer.Option(help="What is looked for, as an image file.")] = None,
    top_k: Annotated[int, typer.Option(help="How many to show.", min=1)] = 10,
    only: Annotated[str | None, typer.Option(help="Show only texts, or only images.")] = None,
    rerank: Annotated[int, typer.Option(help="So many of the nearest are read together with the query.", min=0)] = 0,
    rerank_by: Annotated[
        str, typer.Option(help="The score of that: matching, or likelihood of the caption.")
    ] = "matching",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with what its record says.")] = False,
    model: Annotated[str | None, typer.Option(help="The model of the index, if it lies elsewhere by now.")] = None,
    approximate: Annotated[bool, typer.Option("--approximate", help="Search the inverted file; may miss.")] = False,
    device: Device = None,
) -> None:
    """Find texts and images by a text, an image, or both; texts and images found take turns.

    Prints rank, cosine, with --rerank the score of reading both together, kind, file and key, and the text.
    """
    import json

    from unimo.retrieval import open_index
    from unimo.retrieval.hits import table

    index = open_index(folder, model=model, approximate=approximate, device=device)
    options: dict[str, Any] = {"top_k": top_k, "only": only, "rerank": rerank, "rerank_by": rerank_by}
    hits = index.search(text, image, **options)
    for line in (json.dumps(hit.to_dict() | {"meta": index.meta(hit)}) for hit in hits) if as_json else table(hits):
        say(line)


@app.command()
def caption(
    model: AnyModel,
    images: Images,
    num_beams: Annotated[int, typer.Option(help="Hypotheses kept; 1 is greedy.", min=1, max=64)] = 1,
    max_length: Annotated[int, typer.Option(help="Tokens of a caption at most.", min=1)] = 50,
    min_length: Annotated[int, typer.Option(help="Tokens of a caption at least.", min=0)] = 0,
    no_repeat_ngram_size: Annotated[int, typer.Option(help="No n words in a row twice; 0: they may.", min=0)] = 0,
    temperature: Annotated[float | None, typer.Option(help="Sample with this temperature instead.")] = None,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest tokens; 0: all.", min=0)] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Random seed of sampling.")] = 0,
    out: RowsOut = None,
    batch_size: BatchSize = 64,
    column: Column = None,
    device: Device = None,
    precision: Precision = "auto",
) -> None:
    """Write a caption for each image. A bad image costs its own row; then the exit code is 3."""
    from unimo.inference import load

    options: dict[str, Any] = {"num_beams": num_beams, "max_length": max_length, "min_length": min_length}
    options |= {"no_repeat_ngram_size": no_repeat_ngram_size, "temperature": temperature}
    options |= {"top_k": top_k, "top_p": top_p, "seed": seed, "batch_size": batch_size}
    inputs = _inputs("image", images, column)
    pipeline = load(model, device=device, precision=precision)

    def answer(some: list[Any]) -> list[dict[str, Any]]:
        return [{"caption": sentence} for sentence in pipeline.caption(some, **options)]

    _rows(inputs, "image", answer, {"caption": "string"}, "{caption}", batch_size=batch_size, out=out)


@app.command()
def classify(
    model: AnyModel,
    images: Images,
    names: Annotated[str | None, typer.Option(help="Class names, separated by commas; else those of its task.")] = None,
    out: RowsOut = None,
    batch_size: BatchSize = 64,
    column: Column = None,
    device: Device = None,
    precision: Precision = "auto",
) -> None:
    """Choose a class for each image: of any names, or of those a model was fine-tuned for."""
    from unimo.inference import load

    classes = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if classes == []:
        raise UsageError("no class names", where="--names", got=names, expected="dog,cat,...")
    inputs = _inputs("image", images, column)
    pipeline = load(model, device=device, precision=precision)

    def answer(some: list[Any]) -> list[dict[str, Any]]:
        labels = classes or pipeline.labels
        found = pipeline.classify(some, classes, batch_size=batch_size)
        best = zip(found.argmax(1).tolist(), found.max(1).tolist())
        return [{"label": labels[i], "probability": probability} for i, probability in best]

    fields = {"label": "string", "probability": "float32"}
    _rows(inputs, "image", answer, fields, "{label} ({probability:.1%})", batch_size=batch_size, out=out)


@app.command()
def answer(
    model: AnyModel,
    question: Annotated[str, typer.Argument(help="The question; every image is answered for.")],
    images: Images,
    out: RowsOut = None,
    batch_size: BatchSize = 64,
    column: Column = None,
    device: Device = None,
    precision: Precision = "auto",
) -> None:
    """Answer a question about each image, by a model fine-tuned for such questions."""
    from unimo.inference import load

    inputs = _inputs("image", images, column)
    pipeline = load(model, device=device, precision=precision)

    def answers(some: list[Any]) -> list[dict[str, Any]]:
        return [{"answer": str(one)} for one in pipeline.answer([question] * len(some), some, batch_size=batch_size)]

    _rows(inputs, "image", answers, {"answer": "string"}, "{answer}", batch_size=batch_size, out=out)


@app.command()
def encode(
    model: AnyModel,
    inputs: Annotated[list[str], typer.Argument(help="Images as of `caption`; with --texts strings, lists, tables.")],
    texts: Annotated[bool, typer.Option("--texts", help="Encode texts.")] = False,
    out: RowsOut = None,
    batch_size: BatchSize = 64,
    column: Column = None,
    device: Device = None,
    precision: Precision = "auto",
) -> None:
    """Embed images or texts: float32 vectors of length 1, whose products are cosines."""
    from unimo.inference import load

    kind = "text" if texts else "image"
    given = _inputs(kind, inputs, column)
    pipeline = load(model, device=device, precision=precision)
    embed: Any = pipeline.encode_text if texts else pipeline.encode_image

    def answer(some: list[Any]) -> list[dict[str, Any]]:
        return [{"embedding": row.tolist()} for row in embed(some, batch_size=batch_size)]

    _rows(given, kind, answer, {"embedding": "list<float32>"}, "{embedding}", batch_size=batch_size, out=out)


@app.command("fill-mask")
def fill_mask(
    model: AnyModel,
    text: Annotated[str, typer.Argument(help="A sentence with one [MASK].")],
    image: Annotated[str | None, typer.Option(help="An image to look at.")] = None,
    top_k: Annotated[int, typer.Option(help="How many words to show.", min=1)] = 5,
    device: Device = None,
    precision: Precision = "auto",
) -> None:
    """Fill in the [MASK] of a sentence, alone or beside an image."""
    from unimo.inference import load

    pipeline = load(model, device=device, precision=precision)
    for piece, probability in pipeline.fill_mask(text, image, top_k=top_k):
        say(f"{probability:6.1%} {piece!r}")


def _inputs(kind: str, given: list[str], column: str | None) -> Inputs:
    from unimo.inference.rows import Inputs

    return Inputs(kind, given, column=column)


def _rows(
    inputs: Inputs,
    kind: str,
    answer: Callable[[list[Any]], list[dict[str, Any]]],
    fields: dict[str, str],
    shown: str,
    *,
    batch_size: int,
    out: str | None,
) -> None:
    """Answers every input: into the file `out`, or one line each. Exit code 3 where a row has an error instead."""
    import pyarrow as pa

    from unimo.cli.progress import progress_bar
    from unimo.inference.rows import answer_rows, row_writer

    types = {"list<float32>": pa.list_(pa.float32())}
    columns = {kind: "string", **fields, "error": "string"}
    schema = pa.schema([(name, types.get(each) or pa.type_for_alias(each)) for name, each in columns.items()])
    done = bad = 0
    with contextlib.ExitStack() as stack:
        write: Callable[[dict[str, Any]], None] = lambda row: say(_line(row, kind, shown))  # noqa: E731
        update: Callable[[int, int | None], None] = lambda *_: None  # noqa: E731
        if out:
            write = stack.enter_context(row_writer(out, schema))
            update = stack.enter_context(progress_bar(f"{kind}s", "rows"))
        for row in answer_rows(inputs, kind, answer, batch_size=batch_size):
            write(row)
            done, bad = done + 1, bad + ("error" in row)
            update(done, inputs.total)
    if bad:
        print(f"{bad} of {done} {kind}s could not be read: their rows hold an error", file=sys.stderr)
        raise typer.Exit(DataError.exit_code)


def _line(row: dict[str, Any], kind: str, shown: str) -> str:
    return f"{row[kind]}: {'error: ' + row['error'] if 'error' in row else shown.format(**row)}"
