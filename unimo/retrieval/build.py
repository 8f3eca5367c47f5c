"""`unimo index`: texts and images through their towers once, into a folder.

A part is some thousand consecutive items of one corpus, and a function of them, the model and the settings alone (on
one machine with one number of threads, to the bit). Parts grow in OUT.partial, each whole or absent; killed and started
again, what stands there stays. When all are there, they are sealed and the folder gets its name.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.bad_samples import Ledger
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import Kind as CorpusKind
from unimo.disk import disk_error, sync_folder
from unimo.errors import DataError, ResourceError, UsageError
from unimo.inference import Pipeline, load
from unimo.json_files import write_json
from unimo.regions.store import RegionStore
from unimo.retrieval import files
from unimo.retrieval.encode import Encoder, Work
from unimo.retrieval.files import Kind, Part
from unimo.retrieval.models import identity, source_of

PASSAGE = 128  # tokens
PLAN = "plan.json"
_ITEMS_OF_A_PART = 4096
_TOKENS_OF_A_PART = 2**20

Paths = str | Path | Sequence[str | Path] | None


def build_index(
    model: Pipeline | str | Path,
    out: str | Path,
    *,
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    precision: str = "float16",
    passage: int = PASSAGE,
    regions: Sequence[str] = (),
    index_dir: str | Path | None = None,
    verify: str = "decode",
    max_bad_fraction: float = 0.01,
    ledger: Ledger | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the index of some texts, images or pairs (both sides of them) into the new folder `out`.

    precision: of the stored embeddings, float16 or float32. passage: tokens a text is cut into, at most what the model
    can read. regions: where UNIMO's regions lie, if not beside the shards. index_dir, verify, max_bad_fraction: as of
    `open_corpus`. ledger: names every bad sample; one that cannot be encoded is left out and named too.

    Raises UsageError (nothing to index; `out` or its partial folder holds something else, made with another model, from
    other data or settings), DataError (too many bad samples, nothing left), ResourceError (the disk, another process).
    """
    out = Path(out)
    asked: dict[CorpusKind, Paths] = {"texts": texts, "images": images, "pairs": pairs}
    if not any(asked.values()):
        raise UsageError("nothing to index", expected="texts, images or pairs", do="name --texts, --images or --pairs")
    if precision not in files.PRECISIONS:
        raise UsageError("unknown precision of embeddings", got=precision, expected=", ".join(files.PRECISIONS))
    pipeline = model if isinstance(model, Pipeline) else load(model)
    max_length = pipeline.max_length - 2
    if passage < 1:
        raise UsageError("a passage holds tokens", where="passage", got=passage, expected=f"1 to {max_length}")
    passage = min(passage, max_length)
    ledger = Ledger() if ledger is None else ledger
    before = ledger.quarantined
    options = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction, "ledger": ledger}
    opened = [_open(pipeline, kind, paths, regions, options) for kind, paths in asked.items() if paths]
    made_from = {
        "version": files.VERSION,
        "precision": precision,
        "passage": passage,
        "model": identity(pipeline),
        "corpora": [{name: one.entry[name] for name in ("kind", "fingerprint", "regions")} for one in opened],
    }
    if _stands(out, made_from):
        say(f"{out} is this very index already")
        return out
    with _partial(out, made_from) as folder:
        corpora, stores = [one.corpus for one in opened], [one.store for one in opened]
        works = list(_plan(corpora))
        encoder = Encoder(pipeline, corpora, stores, passage, files.PRECISIONS[precision], made_from)
        own = Ledger(ledger.path)
        parts = [_part(encoder, folder, work, own, say, len(works)) for work in works]
        own.check(max_bad_fraction)
        if not any(len(part) for part in parts):
            raise DataError("nothing left to index", where=folder, got=own.summary()["reasons"])
        rows: Counter[str] = Counter()
        for work, part in zip(works, parts):
            rows[work.kind] += len(part)
        index = {
            "made_from": made_from,
            "model": {"source": source_of(pipeline), "step": pipeline.facts.get("step")},
            "width": int(parts[0].embeddings.shape[1]),
            "precision": precision,
            "passage": passage,
            "corpora": [one.entry for one in opened],
            "sources": encoder.sources,
            "rows": dict(rows),
            "counts": {name: getattr(own, name) for name in ("offered", "used", "quarantined")},
            "parts": [
                {"file": files.part_name(work.number), "kind": work.kind, "corpus": work.corpus, "rows": len(part)}
                for work, part in zip(works, parts)
            ],
        }
        files.seal(folder, index)
        (folder / PLAN).unlink()
        _publish(folder, out)
    counted = " and ".join(f"{n:,} {kind}s" for kind, n in rows.items())
    left_out = ledger.quarantined - before + own.quarantined
    bad = f"; {left_out:,} bad samples left out, see {ledger.path or 'them with --ledger FILE'}" if left_out else ""
    say(f"{out}: {counted}, {index['width']} numbers each in {precision}{bad}")
    return out


@dataclass(frozen=True)
class _Opened:
    """A corpus, its regions if the model sees regions, and its entry in index.json."""

    corpus: Corpus
    store: RegionStore | None
    entry: dict[str, Any]


def _open(
    pipeline: Pipeline, kind: CorpusKind, paths: Paths, regions: Sequence[str], options: dict[str, Any]
) -> _Opened:
    assert paths is not None
    corpus = open_corpus(kind, paths, tokenizer=pipeline.tokenizer, **options)
    needed = pipeline.sees_regions and kind != "texts"
    store = RegionStore.open(list(regions) or None, corpus) if needed else None
    index_dir = options["index_dir"]
    entry = {
        "kind": kind,
        # A search may be started from another folder.
        "paths": [str(Path(path).absolute()) for path in ([paths] if isinstance(paths, (str, Path)) else paths)],
        "fingerprint": corpus.fingerprint,
        "items": len(corpus),
        "regions": None if store is None else store.fingerprint,
        "region_paths": [str(Path(path).absolute()) for path in regions],
        "index_dir": None if index_dir is None else str(Path(index_dir).absolute()),
    }
    return _Opened(corpus, store, entry)


# ---- parts


def _plan(corpora: Sequence[Corpus]) -> Iterator[Work]:
    number = 0
    for c, corpus in enumerate(corpora):
        kinds: tuple[Kind, ...] = {"texts": ("text",), "images": ("image",), "pairs": ("image", "text")}[corpus.kind]  # type: ignore[assignment]
        for kind in kinds:
            # A part of long documents holds fewer of them: its rows must fit into memory.
            tokens = corpus.token_counts if corpus.kind == "texts" else np.zeros(len(corpus), np.int64)
            first, filled = 0, 0
            for i in range(len(corpus) + 1):
                full = i - first == _ITEMS_OF_A_PART or filled >= _TOKENS_OF_A_PART
                if i > first and (full or i == len(corpus)):
                    yield Work(number, c, kind, first, i)
                    number, first, filled = number + 1, i, 0
                if i < len(corpus):
                    filled += int(tokens[i])


def _part(encoder: Encoder, folder: Path, work: Work, own: Ledger, say: Callable[[str], None], of: int) -> Part:
    """The part of these items, made if it is not there; its samples are counted either way."""
    path = folder / files.part_name(work.number)
    part = _usable(path, encoder.header(work))
    if part is None:
        began = time.monotonic()
        encoder.write(path, work)
        part = Part(path)
        rate = (work.end - work.first) / max(time.monotonic() - began, 1e-3)
        say(f"part {work.number + 1} of {of}: {len(part):,} {work.kind}s, {rate:.0f} items/s")
    corpus, bad = encoder.corpora[work.corpus], part.header["bad"]
    own.offer(part.header["offered"])
    own.use(part.header["offered"] - len(bad))
    for entry in bad:
        fault = DataError(**{name: value for name, value in entry.items() if name not in ("key", "item")})
        own.add(fault, key=entry["key"], shard=corpus.shard_of(entry["item"]))
    return part


def _usable(path: Path, header: dict[str, Any]) -> Part | None:
    """The part that an earlier process wrote from the same, whole; or None."""
    try:
        part = Part(path)
        same = all(part.header[name] == value for name, value in header.items())
        return part if same and part.header["content"] == files.content_hash(part.arrays) else None
    except (DataError, KeyError):
        return None


# ---- folders


def _stands(out: Path, made_from: dict[str, Any]) -> bool:
    """Whether `out` is this index already; UsageError if it is anything else."""
    if not out.exists():
        return False
    if not (out / files.MANIFEST).is_file():
        raise UsageError(
            "there is something else in the way", where=out, expected="a new folder", do="choose another --out"
        )
    _refuse_other(out, files.read_folder(out)["made_from"], made_from)
    return True


@contextmanager
def _partial(out: Path, made_from: dict[str, Any]) -> Iterator[Path]:
    """The folder that the parts grow in, held by this process alone."""
    folder = out.with_name(out.name + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("wb")
    except OSError as fault:
        raise disk_error(fault, folder) from fault
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ResourceError(
                "another process is writing this index", where=folder, do="wait for it, or stop it"
            ) from None
        try:
            begun = json.loads((folder / PLAN).read_bytes())
        except (OSError, ValueError):
            begun = None
        if begun is not None:
            _refuse_other(folder, begun, made_from)
        write_json(folder / PLAN, made_from)
        for torn in folder.glob(".*.partial.*"):
            torn.unlink()
        yield folder


def _publish(folder: Path, out: Path) -> None:
    try:
        (folder / ".lock").unlink()
        folder.rename(out)
        sync_folder(out.parent)
    except OSError as fault:
        raise disk_error(fault, out) from fault


def _refuse_other(where: Path, found: Any, made_from: dict[str, Any]) -> None:
    """UsageError that names the first thing in which two indexes differ."""
    found = found if isinstance(found, dict) else {}
    for name, what in (
        ("version", "of another version"),
        ("model", "made with another model"),
        ("corpora", "of other data"),
        ("precision", "in another precision"),
        ("passage", "of passages of another length"),
    ):
        if found.get(name) != made_from[name]:
            raise UsageError(
                f"there is an index {what} already",
                where=where,
                got=_short(made_from[name]),
                expected=_short(found.get(name)),
                do="give it the same model and data as before, choose another --out, or remove that folder",
            )


def _short(value: Any) -> str:
    return json.dumps(value, sort_keys=True)[:300]


__all__ = ["PASSAGE", "build_index"]
