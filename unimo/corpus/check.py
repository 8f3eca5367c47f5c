"""Build or verify the sidecar indexes of a set of shards (`unimo data check`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Kind, open_corpus


def index(
    kind: Kind,
    paths: str | Path | Sequence[str | Path],
    *,
    tokenizer=None,
    bad_samples: BadSamples | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> list[dict]:
    """Hash every shard, build the indexes that are missing or do not fit, and say one row per shard and a total.

    Unlike the silent check at the start of a run, which trusts sizes and times of change, this reads all bytes. Returns
    the rows (shard, form, built, offered, used, quarantined, texts, tokens, bytes, seconds, reasons, notes, told).
    options: of `open_corpus`, whose errors are raised; rows said until then stay valid, and so do their indexes.
    """
    if tokenizer is None and kind != "images":
        from unimo.tokenizer import Tokenizer  # images need no vocabulary in memory

        tokenizer = Tokenizer.default()
    rows: list[dict] = []

    def tell(row: dict) -> None:
        rows.append(row)
        say(_line(row))

    bad_samples = BadSamples() if bad_samples is None else bad_samples
    before = bad_samples.quarantined
    corpus = open_corpus(
        kind, paths, tokenizer=tokenizer, bad_samples=bad_samples, recheck=True, on_shard=tell, **options
    )
    for line in corpus.passed_over:
        say(f"passed over: {line}")
    bad = bad_samples.quarantined - before
    listed = f", listed in {bad_samples.path}" if bad and bad_samples.path else ""
    tokens = sum(row["tokens"] for row in rows)
    counts = f"{len(rows)} shards: {len(corpus)} {kind}, {tokens} tokens, {bad} bad samples{listed}"
    say(f"{counts} | fingerprint {corpus.fingerprint[:16]}")
    return rows


def _line(row: dict) -> str:
    size = row["bytes"] / 2**20
    parts = [row["shard"], "indexed" if row["built"] else "unchanged", f"{row['used']} of {row['offered']} used"]
    if row["texts"]:
        parts.append(f"{row['texts']} texts, {row['tokens']} tokens")
    parts.append(f"{size:.1f} MiB in {row['seconds']:.1f} s ({size / max(row['seconds'], 1e-3):.0f} MiB/s)")
    return " | ".join([*parts, *(f"{count} x {reason}" for reason, count in row["reasons"].items()), *row["told"]])
