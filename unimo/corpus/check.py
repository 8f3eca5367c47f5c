"""`unimo data check`: what lies there, an example, duplicates, every bad sample, and the command to train on it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, Kind, open_corpus
from unimo.corpus.finding import find, fits
from unimo.errors import DataError
from unimo.formats.columns import ADDRESS_NAMES, Fields, image_columns
from unimo.formats.tables import columns_in, rows_of
from unimo.formats.tar import Member, scan_tar
from unimo.formats.text import Row
from unimo.paths import ADDRESS, HUB, expand

SHOWN = 100  # characters of a text
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|valid|validation|dev|test)(?![a-z])")
_FEW = 6  # files that a command may name one by one


def check(
    kind: Kind | None,
    paths: str | Path | Sequence[str | Path],
    *,
    columns: Sequence[str] = (),
    bad_samples: BadSamples | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> list[dict]:
    """Hash every shard, build the indexes that are missing or do not fit, and say what is there.

    kind: None guesses it. Unlike the silent check at the start of a run, which trusts sizes and times of change, this
    reads all bytes. Returns a row for each shard (shard, form, built, offered, used, quarantined, texts, tokens, bytes,
    seconds, reasons, notes, passed_over). options: of `open_corpus`, whose errors are raised; rows printed until then
    stay valid, and so do their indexes.
    """
    fields = Fields.of(columns)
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    kind = kind or guess_kind(paths, fields)
    rows: list[dict] = []

    def tell(row: dict) -> None:
        rows.append(row)
        say(_line(row))

    bad_samples = BadSamples() if bad_samples is None else bad_samples
    before = bad_samples.quarantined
    options |= {"fields": fields, "bad_samples": bad_samples}
    corpus = open_corpus(kind, paths, recheck=True, on_shard=tell, **options)
    for line in corpus.passed_over:
        say(f"passed over: {line}")
    say(f"found: {len(corpus):,} {kind} ({'; '.join(corpus.formats())})")
    say(f"example: {_example(corpus)}")
    if own := int(corpus.validation.sum()):
        say(f"validation: {own:,} of them are the data's own split val, which is not trained on")
    say(f"duplicates: {_duplicates(corpus)}")
    bad = bad_samples.quarantined - before
    listed = f", listed in {bad_samples.path}" if bad and bad_samples.path else ""
    tokens = sum(row["tokens"] for row in rows)
    counts = f"{len(rows)} shards: {len(corpus)} {kind}, {tokens} tokens, {bad} bad samples{listed}"
    say(f"{counts} | fingerprint {corpus.fingerprint[:16]}")
    say(f"train on it: {_command(kind, [str(path) for path in paths], [row['shard'] for row in rows], columns)}")
    return rows


def guess_kind(paths: str | Path | Sequence[str | Path], fields: Fields) -> Kind:
    """What the files hold, by default: pairs if they have captions, else images, else texts."""
    kinds: tuple[Kind, ...] = ("pairs", "images", "texts")
    for entry in [paths] if isinstance(paths, (str, Path)) else paths:
        if not (ADDRESS.match(str(entry)) or str(entry).startswith(HUB)):
            expand(entry, [], expected="a file, a folder or a pattern")
    named = False
    for kind in kinds:
        try:
            for source in find(kind, paths, fields).sources:
                if source.form == "tar":
                    if kind == "images" or _has_captions(source.path):
                        return kind
                elif source.form == "loose" or fits(kind, source.path, fields):
                    return kind
                else:
                    columns = columns_in(source.path, source.form) or {}
                    row = next(rows_of(source.path, source.form), None)
                    named |= not columns.keys().isdisjoint((*fields.image, *ADDRESS_NAMES))
                    named |= isinstance(row, Row) and bool(image_columns(row.values))
        except DataError:
            continue
    return "pairs" if named else "texts"


def _has_captions(tar: Path) -> bool:
    names = (entry.name for entry in islice(scan_tar(tar), 100) if isinstance(entry, Member))
    return any(name.lower().endswith((".txt", ".json")) for name in names)


def _command(kind: Kind, paths: Sequence[str], shards: Sequence[str], columns: Sequence[str]) -> str:
    """`unimo pretrain` with these paths; of a few files by the names of their splits, val is for validation."""
    splits: dict[str, list[str]] = {}
    for shard in shards:
        found = _SPLIT.search(Path(shard).name.lower())
        splits.setdefault(found[1] if found else "", []).append(shard)
    val = [shard for name, some in splits.items() if name[:3] in ("val", "dev") for shard in some]
    words = ["unimo", "pretrain", "photos", f"--{kind}", *paths]
    if kind != "images" and "train" in splits and val and len(shards) <= _FEW:
        words = ["unimo", "pretrain", "photos", f"--{kind}", *splits["train"], f"--val-{kind}", *val]
    return shlex.join([*words, *(word for column in columns for word in ("--column", column))])


def _line(row: dict) -> str:
    size = row["bytes"] / 2**20
    parts = [row["shard"], row["described"], "indexed" if row["built"] else "unchanged"]
    parts.append(f"{row['used']} of {row['offered']} used")
    if row["texts"]:
        parts.append(f"{row['texts']} texts, {row['tokens']} tokens")
    parts.append(f"{size:.1f} MiB in {row['seconds']:.1f} s ({size / max(row['seconds'], 1e-3):.0f} MiB/s)")
    reasons = (f"{count} x {reason}" for reason, count in row["reasons"].items())
    return " | ".join([*parts, *reasons, *row["passed_over"]])


def _example(corpus: Corpus) -> str:
    sample = corpus.sample(0)
    size = "" if corpus.kind == "texts" else f", {corpus.sizes[0][0]} x {corpus.sizes[0][1]}"
    texts = [repr(text[:SHOWN] + ("…" if len(text) > SHOWN else "")) for text in sample.texts[:3]]
    more = f" and {len(sample.texts) - 3} more" if len(sample.texts) > 3 else ""
    return f"{sample.key}{size}" + (f": {', '.join(texts)}{more}" if texts else "")


def _duplicates(corpus: Corpus) -> str:
    """How many images are equal to an earlier one to the last byte, and texts in all words."""
    found = []
    if corpus.kind != "texts":
        found.append(_repeated("images", [digest.tobytes() for digest in corpus.image_sha256], list(corpus.keys)))
    if corpus.kind != "images":
        offsets = corpus._token_offsets
        ids = [hashlib.sha256(corpus._token_ids[a:b].tobytes()).digest() for a, b in pairwise(offsets)]
        found.append(_repeated("texts", ids, list(corpus.keys) if corpus.kind == "texts" else []))
    return "; ".join(found)


def _repeated(what: str, values: Sequence[Hashable], keys: Sequence[str]) -> str:
    counts = Counter(values)
    extra = len(values) - len(counts)
    if not extra:
        return f"none among {len(values):,} {what}"
    most, _ = counts.most_common(1)[0]
    same = [key for key, value in zip(keys, values) if value == most][:3]
    return f"{extra:,} of {len(values):,} {what}" + (f", such as {' = '.join(same)}" if same else "")
