"""Verbs of `unimo data` and `unimo prepare`: what is done once, before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unimo.cli.app import Columns, data, prepare, say

IndexDir = Annotated[str | None, typer.Option(help="Folder of the indexes, if not beside the shards.")]
Verify = Annotated[str, typer.Option(help="decode: every image once; header: read only its size.")]
MaxBadFraction = Annotated[float, typer.Option(help="Stop when a larger fraction of samples is bad.")]
BadSamplesFile = Annotated[str | None, typer.Option(help="Write every bad sample and the reason to this JSONL file.")]
Ray = Annotated[str | None, typer.Option(help="Run on a Ray cluster: local, auto or HOST:PORT.", metavar="ADDRESS")]
PageSeed = Annotated[int, typer.Option(help="Random seed of what the page shows.")]


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
    ray: Ray = None,
) -> None:
    """Say what is there: format, an example, duplicates, bad samples, the command to train on it. Writes indexes."""
    from unimo.cluster import on_ray
    from unimo.corpus.bad_samples import BadSamples
    from unimo.corpus.check import check
    from unimo.corpus.corpus import EXPECTED

    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    kind: Any = paths.pop(0) if len(paths) > 1 and paths[0] in EXPECTED else None
    options |= {"run": on_ray(ray), "bad_samples": BadSamples(bad_samples)}
    check(kind, paths, columns=column or (), say=say, **options)


@prepare.command("regions")
def prepare_regions(
    kind: Annotated[str, typer.Argument(help="images or pairs")],
    paths: Annotated[list[str], typer.Argument(help="Folders, globs or files.")],
    source: Annotated[
        str,
        typer.Option(
            help="grid | grid:MODEL | detector:MODEL | faster-rcnn:FILE | tsv:FILES | lines:FILES | npz:FOLDER | "
            "hdf5:FILE | lmdb:FOLDER | truth. MODEL is a folder or a name on the Hugging Face hub."
        ),
    ] = "grid",
    out: Annotated[str | None, typer.Option(help="Output folder, if not beside the shards.")] = None,
    max_regions: Annotated[int, typer.Option(help="Regions kept of an image.", min=1)] = 36,
    precision: Annotated[str, typer.Option(help="float16, or int8 with a scale for each region.")] = "float16",
    top: Annotated[int, typer.Option(help="Keep only the k likeliest classes of a region; 0 keeps all.", min=0)] = 0,
    feature_size: Annotated[int | None, typer.Option(help="Feature size, where the source can choose it.")] = None,
    words: Annotated[int, typer.Option(help="grid: visual words of the vocabulary.", min=2)] = 512,
    vocabulary: Annotated[str | None, typer.Option(help="grid: vocabulary file, read if it exists, else made.")] = None,
    threshold: Annotated[float, typer.Option(help="detectors: lowest confidence of a region.")] = 0.2,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there is one.")] = None,
    column: Columns = None,
    index_dir: IndexDir = None,
    bad_samples: BadSamplesFile = None,
    ray: Ray = None,
) -> None:
    """Region features of every image: boxes, features, classes. Run it again to resume."""
    from unimo.cluster import on_ray
    from unimo.corpus.bad_samples import BadSamples
    from unimo.formats.columns import Fields
    from unimo.regions.prepare import prepare_regions as run

    options: dict[str, Any] = {"max_regions": max_regions, "precision": precision, "top": top, "index_dir": index_dir}
    options |= {"feature_size": feature_size, "words": words, "vocabulary": vocabulary, "threshold": threshold}
    options |= {"fields": Fields.of(column or ()), "run": on_ray(ray)}
    run(kind, paths, source, out=out, device=device, bad_samples=BadSamples(bad_samples), say=say, **options)  # type: ignore[arg-type]


@prepare.command("rewrites")
def prepare_rewrites(
    paths: Annotated[list[str], typer.Argument(help="Pairs: folders, globs or files.")],
    out: Annotated[str | None, typer.Option(help="Output folder, if not beside the shards.")] = None,
    positives: Annotated[int, typer.Option(help="Back-translations of each caption (needs --translate).", min=0)] = 3,
    sentences: Annotated[int, typer.Option(help="Negatives from similar captions of other images.", min=0)] = 60,
    phrases: Annotated[int, typer.Option(help="Negatives with a phrase replaced.", min=0)] = 20,
    words: Annotated[int, typer.Option(help="Negatives with a word replaced.", min=0)] = 20,
    max_similarity: Annotated[
        float, typer.Option(help="Captions with a higher TF-IDF similarity are paraphrases, not negatives.")
    ] = 0.5,
    candidates: Annotated[
        int, typer.Option(help="Drawn for each word and phrase; those that read like captions are kept.", min=1)
    ] = 3,
    translate: Annotated[
        list[str] | None,
        typer.Option(help="EN_XX,XX_EN: two translation models, folders or hub names; repeat for more languages."),
    ] = None,
    masked_lm: Annotated[
        str | None,
        typer.Option(
            "--masked-lm",
            help="Draw three times as many and keep those that this model expects: a run, or a folder of transformers.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the replacements.")] = 0,
    device: Annotated[str, typer.Option(help="Device of the translation models and of --masked-lm.")] = "cpu",
    column: Columns = None,
    index_dir: IndexDir = None,
    verify: Verify = "decode",
    max_bad_fraction: MaxBadFraction = 0.01,
    bad_samples: BadSamplesFile = None,
    ray: Ray = None,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random captions and rewrites.")] = None,
    rows: Annotated[int, typer.Option(help="Captions on the page.", min=1)] = 50,
    sample: Annotated[
        int | None, typer.Option(help="Write this many negatives to rewrites-sample.jsonl, to be judged.", min=1)
    ] = None,
    page_seed: PageSeed = 0,
) -> None:
    """Paraphrases and hard negatives of every caption (English, but for sentence level). Run it again to resume."""
    from unimo.cluster import on_ray
    from unimo.corpus.bad_samples import BadSamples, tell_left_out
    from unimo.formats.columns import Fields
    from unimo.rewriting.back_translation import pivots
    from unimo.rewriting.prepare import Counts, rewrites

    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "fields": Fields.of(column or ())}
    made: dict[str, Any] = {
        "counts": Counts(positives, sentences, phrases, words),
        "candidates": candidates,
        "translate": pivots(translate or []),
        "masked_lm": masked_lm,
    }
    made |= {"max_similarity": max_similarity, "seed": seed, "device": device, "max_bad_fraction": max_bad_fraction}
    made["run"] = on_ray(ray)
    bad = BadSamples(bad_samples)
    rewrites(paths, out=out, bad_samples=bad, say=say, **made, **options)
    tell_left_out(bad, say)
    if page or sample:
        from unimo.corpus.corpus import open_corpus
        from unimo.rewriting.judging import write_sample
        from unimo.rewriting.page import show
        from unimo.rewriting.store import Rewrites

        corpus = open_corpus("pairs", paths, **options)
        written = Rewrites.open(out or index_dir, corpus)
        if page:
            show(corpus, written, page, n=rows, seed=page_seed)
        if sample:
            place = Path(out or ".") / "rewrites-sample.jsonl"
            say(f"{write_sample(corpus, written, place, n=sample, seed=page_seed)} negatives to judge: {place}")


@prepare.command("neighbours")
def prepare_neighbours(
    pairs: Annotated[list[str], typer.Option(help="Pairs: folders, globs or files.")],
    out: Annotated[str, typer.Option(help="Output folder.")],
    images: Annotated[list[str] | None, typer.Option(help="Images to retrieve from.")] = None,
    texts: Annotated[list[str] | None, typer.Option(help="Texts to retrieve sentences from.")] = None,
    model: Annotated[str | None, typer.Option(help="Rank by the embeddings of this model (run, folder, name).")] = None,
    regions: Annotated[
        list[str] | None, typer.Option(help="Prepared regions of pairs and images: rank images by shared objects too.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Lowest probability of an object's class.", min=0, max=1)] = 0.2,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting, such as sentences=50: images, sentences, pool, min_words, max_words, min_image_score, "
            "min_sentence_score, min_overlap.",
        ),
    ] = None,
    column: Columns = None,
    index_dir: IndexDir = None,
    verify: Verify = "decode",
    max_bad_fraction: MaxBadFraction = 0.01,
    bad_samples: BadSamplesFile = None,
    ray: Ray = None,
    page: Annotated[str | None, typer.Option(help="Write an HTML page with random pairs and neighbours.")] = None,
    rows: Annotated[int, typer.Option(help="Pairs on the page.", min=1)] = 50,
    page_seed: PageSeed = 0,
) -> None:
    """Similar images and sentences for every pair, retrieved from unpaired data. Run it again to resume."""
    from unimo.cluster import on_ray
    from unimo.config import override
    from unimo.corpus.bad_samples import BadSamples, tell_left_out
    from unimo.formats.columns import Fields
    from unimo.neighbours.prepare import NeighbourSettings, neighbours

    bad = BadSamples(bad_samples)
    options: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    options |= {"model": model, "regions": regions or None, "confidence": confidence, "bad_samples": bad}
    options |= {"page": page, "rows": rows, "page_seed": page_seed, "say": say, "fields": Fields.of(column or ())}
    settings = override(NeighbourSettings(), assignments or ())
    neighbours(pairs, images or None, texts or None, out, settings=settings, run=on_ray(ray), **options)
    tell_left_out(bad, say)
