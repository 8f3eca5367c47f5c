"""Verbs of `unimo data` and `unimo prepare`: what is done once, before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Columns, data, prepare, say


@data.command("check")
def check_data(
    paths: Annotated[
        list[str],
        typer.Argument(help="Folders, globs or files; first texts, images or pairs, if not to be guessed."),
    ],
    column: Columns = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every image once, or read only its header")] = "decode",
    max_bad_fraction: Annotated[float, typer.Option(help="Stop beyond this fraction of bad samples.")] = 0.01,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
) -> None:
    """Say what is there: format, an example, duplicates, bad samples, the command to train on it. Writes indexes."""
    from unimo.corpus.bad_samples import BadSamples
    from unimo.corpus.check import check
    from unimo.corpus.corpus import EXPECTED

    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    kind: Any = paths.pop(0) if len(paths) > 1 and paths[0] in EXPECTED else None
    check(kind, paths, columns=column or (), bad_samples=BadSamples(bad_samples), say=say, **options)


@prepare.command("regions")
def prepare_regions(
    kind: Annotated[str, typer.Argument(help="images or pairs")],
    paths: Annotated[list[str], typer.Argument(help="Folders, globs or files.")],
    source: Annotated[
        str,
        typer.Option(
            help="truth, grid, grid:MODEL, detector:MODEL, faster-rcnn:, tsv:, lines:, npz:, hdf5:, lmdb:PLACE."
        ),
    ] = "grid",
    out: Annotated[str | None, typer.Option(help="Where regions go, if not beside the shards.")] = None,
    max_regions: Annotated[int, typer.Option(help="Boxes kept of an image.", min=1)] = 36,
    precision: Annotated[str, typer.Option(help="float16, or int8 with a scale for each region.")] = "float16",
    top: Annotated[int, typer.Option(help="Likeliest classes kept of a region; 0 keeps all.", min=0)] = 0,
    feature_size: Annotated[int | None, typer.Option(help="Features of a region, where the source can choose.")] = None,
    words: Annotated[int, typer.Option(help="Size of a grid's visual vocabulary.", min=2)] = 512,
    vocabulary: Annotated[str | None, typer.Option(help="Its file: read if it is there, else written.")] = None,
    threshold: Annotated[float, typer.Option(help="Least confidence of a detected region.")] = 0.2,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: what is there.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad image.")] = None,
) -> None:
    """Write regions (boxes, features, classes) of every image; started again, it goes on where it was."""
    from unimo.corpus.bad_samples import BadSamples
    from unimo.regions.prepare import prepare_regions as run

    options: dict[str, Any] = {"max_regions": max_regions, "precision": precision, "top": top, "index_dir": index_dir}
    options |= {"feature_size": feature_size, "words": words, "vocabulary": vocabulary, "threshold": threshold}
    run(kind, paths, source, out=out, device=device, bad_samples=BadSamples(bad_samples), say=say, **options)  # type: ignore[arg-type]


@prepare.command("rewrites")
def prepare_rewrites(
    paths: Annotated[list[str], typer.Argument(help="Pairs: folders, globs or files.")],
    out: Annotated[str | None, typer.Option(help="Folder of the rewrites, if not beside the indexes.")] = None,
    positives: Annotated[int, typer.Option(help="Back-translations of each caption.", min=0)] = 3,
    sentences: Annotated[int, typer.Option(help="Near captions of other images.", min=0)] = 30,
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
    max_bad_fraction: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad sample and caption.")] = None,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random captions.")] = None,
    rows: Annotated[int, typer.Option(help="Captions on the page.", min=1)] = 50,
    sample: Annotated[
        int | None, typer.Option(help="Write so many negatives to be judged: rewrites-sample.jsonl in --out.", min=1)
    ] = None,
    draw: Annotated[int, typer.Option(help="Chance of page and sample alone.")] = 0,
) -> None:
    """Rewrite every caption: paraphrases, and captions that are nearly right (words and phrases: in English alone)."""
    from unimo.corpus.bad_samples import BadSamples, tell_left_out
    from unimo.rewriting.back_translation import pivots
    from unimo.rewriting.prepare import Counts, rewrites

    counts = Counts(positives, sentences, phrases, words)
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify}
    made: dict[str, Any] = {"counts": counts, "ceiling": ceiling, "translate": pivots(translate or []), "seed": seed}
    bad = BadSamples(bad_samples)
    rewrites(
        paths, out=out, device=device, bad_samples=bad, say=say, max_bad_fraction=max_bad_fraction, **made, **options
    )
    tell_left_out(bad, say)
    if page or sample:
        from unimo.corpus.corpus import open_corpus
        from unimo.rewriting.judging import write_sample
        from unimo.rewriting.page import show
        from unimo.rewriting.store import Rewrites
        from unimo.tokenizer import Tokenizer

        corpus = open_corpus("pairs", paths, tokenizer=Tokenizer.default(), **options)
        written = Rewrites.open(out or index_dir, corpus)
        if page:
            show(corpus, written, page, n=rows, seed=draw)
        if sample:
            place = Path(out or ".") / "rewrites-sample.jsonl"
            say(f"{write_sample(corpus, written, place, n=sample, seed=draw)} negatives to judge: {place}")


@prepare.command("neighbours")
def prepare_neighbours(
    pairs: Annotated[list[str], typer.Option(help="Pairs to find neighbours for.")],
    out: Annotated[str, typer.Option(help="Folder for the neighbours.")],
    images: Annotated[list[str] | None, typer.Option(help="Where related images come from.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="Where related sentences come from.")] = None,
    model: Annotated[str | None, typer.Option(help="A model whose embeddings rank (a run, a folder).")] = None,
    regions: Annotated[
        list[str] | None, typer.Option(help="Prepared regions of both: shared objects then choose.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Least probability of an object's class.", min=0, max=1)] = 0.2,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as sentences=50.")] = None,
    index_dir: Annotated[str | None, typer.Option(help="Where indexes go, if not beside the shards.")] = None,
    verify: Annotated[str, typer.Option(help="decode every image once, or read only its header")] = "decode",
    max_bad_fraction: Annotated[float, typer.Option(help="Stop beyond this share of bad samples.")] = 0.01,
    bad_samples: Annotated[str | None, typer.Option(help="File that names every bad sample.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work on the cluster that ray finds.")] = False,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random pairs.")] = None,
    rows: Annotated[int, typer.Option(help="Pairs on the page.", min=1)] = 50,
    draw: Annotated[int, typer.Option(help="Chance of the page.")] = 0,
) -> None:
    """Find related images and sentences for every pair."""
    from unimo.config import override
    from unimo.corpus.bad_samples import BadSamples, tell_left_out
    from unimo.neighbours.prepare import NeighbourSettings, neighbours

    bad = BadSamples(bad_samples)
    settings = override(NeighbourSettings(), assignments or ())
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    options |= {"model": model, "settings": settings, "bad_samples": bad, "ray": ray, "say": say}
    options |= {"regions": regions or None, "confidence": confidence, "page": page, "rows": rows, "draw": draw}
    neighbours(pairs, images or None, texts or None, out, **options)
    tell_left_out(bad, say)
