"""`unimo index`: texts and images through their towers once, into a table.

Rows are added some thousand at a time, each time whole or not at all. Killed and started again, the build goes on
behind the last item in the table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.corpus.finding import Kind as CorpusKind
from unimo.data.images import load_rgb
from unimo.disk import disk_error, locked
from unimo.errors import DataError, NumericsError, UnimoError, UsageError
from unimo.formats.columns import Fields
from unimo.inference import Pipeline, identity, load
from unimo.json_files import write_json
from unimo.paths import ADDRESS, HUB
from unimo.regions.store import RegionStore
from unimo.retrieval import store
from unimo.retrieval.passages import passages
from unimo.retrieval.store import Kind

PASSAGE = 128  # tokens
_ROWS_AT_ONCE = 4096  # of one append
_BATCH = {"text": 512, "image": 128}  # hidden states in memory together
_KINDS: dict[str, tuple[Kind, ...]] = {"texts": ("text",), "images": ("image",), "pairs": ("image", "text")}

Paths = str | Path | Sequence[str | Path] | None
Read = Iterator[tuple[dict[str, Any], Any]]  # a row, and what its tower reads: token ids, an image, or an error


def build_index(
    model: Pipeline | str | Path,
    out: str | Path,
    *,
    texts: Paths = None,
    images: Paths = None,
    pairs: Paths = None,
    add: bool = False,
    approximate: bool = False,
    passage: int = PASSAGE,
    regions: Sequence[str] = (),
    index_dir: str | Path | None = None,
    verify: str = "decode",
    max_bad_fraction: float = 0.01,
    bad_samples: BadSamples | None = None,
    columns: Sequence[str] = (),
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the search index of some texts, images or pairs (both sides of them) into the folder `out`.

    add: to the finished index in `out`; what it holds already is not encoded again. approximate: also write the
    inverted file (IVF) that `open_index(approximate=True)` searches. passage: tokens a text is cut into, at most what
    the model can read. regions: where UNIMO's regions lie, if not beside the shards. index_dir, verify,
    max_bad_fraction: as of `open_corpus`. columns: part=column of tables. bad_samples: names every bad sample; one that
    cannot be encoded is left out and named too.

    Raises UsageError (nothing to index; `out` holds something else, or an index with another model, data or passages),
    DataError (too many bad samples, nothing left), ResourceError (the disk, another process).
    """
    out, given = Path(out), {"texts": texts, "images": images, "pairs": pairs}
    if not any(given.values()):
        raise UsageError("nothing to index", expected="texts, images or pairs", do="name --texts, --images or --pairs")
    pipeline = model if isinstance(model, Pipeline) else load(model, device=device)
    max_length, width = pipeline.max_length - 2, pipeline.model.width
    if passage < 1:
        raise UsageError("a passage holds tokens", where="passage", got=passage, expected=f"1 to {max_length}")
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    own, before = BadSamples(bad_samples.path), bad_samples.quarantined
    options = {
        "index_dir": index_dir,
        "verify": verify,
        "max_bad_fraction": max_bad_fraction,
        "bad_samples": bad_samples,
        "fields": Fields.of(columns),
    }
    sources = [_open(pipeline, kind, paths, regions, columns, options) for kind, paths in given.items() if paths]  # type: ignore[arg-type]
    fixed = {"format": store.FORMAT, "model": identity(pipeline), "passage": min(passage, max_length)}
    with _held(out):
        header = _begun(out, fixed, [source.entry for source in sources], add)
        if header["finished"] == len(header["data"]):
            say(f"{out} is this very index already")
            return out
        header |= {"source": _source_of(pipeline), "width": width}
        rows = _write(out, header, pipeline, sources, own, approximate, max_bad_fraction, say)
    counted = " and ".join(f"{n:,} {kind}s" for kind, n in rows.items() if n)
    left_out = bad_samples.quarantined - before + own.quarantined
    bad = f"; {left_out:,} bad samples left out, see {bad_samples.path or 'them with --bad-samples FILE'}"
    say(f"{out}: {counted}, {width} numbers each{bad if left_out else ''}")
    return out


def _write(
    out: Path,
    header: dict[str, Any],
    pipeline: Pipeline,
    sources: Sequence[_Source],
    bad_samples: BadSamples,
    approximate: bool,
    max_bad_fraction: float,
    say: Callable[[str], None],
) -> dict[Kind, int]:
    """Encodes what the header does not call finished yet; returns how many rows of each kind there are then."""
    write_json(out / store.HEADER, header)
    table = store.open_newest(out, header["width"])
    for number, entry in list(enumerate(header["data"]))[header["finished"] :]:
        (source,) = (source for source in sources if _content(source.entry) == _content(entry))
        _encode(pipeline, source, number, header["passage"], table, say)
        _report_bad(table, source.corpus, number, bad_samples)
    bad_samples.check(max_bad_fraction)
    rows = {kind: table.count_rows(store.of(kind)) for kind in store.KINDS}
    if not any(rows.values()):
        raise DataError("nothing left to index", where=out, got=bad_samples.summary()["reasons"])
    version = store.finish(table, approximate)
    write_json(out / store.HEADER, {**header, "finished": len(header["data"]), "version": version})
    return rows


@dataclass(frozen=True)
class _Source:
    """A corpus, its regions if the model sees regions, and its entry in index.json."""

    corpus: Corpus
    regions: RegionStore | None
    entry: dict[str, Any]


def _open(
    pipeline: Pipeline,
    kind: CorpusKind,
    paths: str | Path | Sequence[str | Path],
    regions: Sequence[str],
    columns: Sequence[str],
    options: Any,
) -> _Source:
    corpus = open_corpus(kind, paths, tokenizer=pipeline.tokenizer, **options)
    found = RegionStore.open(list(regions) or None, corpus) if pipeline.sees_regions and kind != "texts" else None
    index_dir = options["index_dir"]
    entry = {
        "kind": kind,
        # A search may be started from another folder.
        "paths": [_from_anywhere(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)],
        "columns": list(columns),
        "fingerprint": corpus.fingerprint,
        "items": len(corpus),
        "regions": None if found is None else found.fingerprint,
        "region_paths": [str(Path(path).absolute()) for path in regions],
        "index_dir": None if index_dir is None else str(Path(index_dir).absolute()),
    }
    return _Source(corpus, found, entry)


def _from_anywhere(path: str | Path) -> str:
    return str(path) if ADDRESS.match(str(path)) or str(path).startswith(HUB) else str(Path(path).absolute())


def _source_of(pipeline: Pipeline) -> str:
    """Where the model lies: a path that holds from any folder, or a name on the hub; "" for one made in memory."""
    path = str(pipeline.facts.get("path", ""))
    return str(Path(path).resolve()) if path and Path(path).exists() else path


# ---- rows


def _encode(
    pipeline: Pipeline, source: _Source, number: int, passage: int, table: Any, say: Callable[[str], None]
) -> None:
    """Adds the rows of a corpus that are not in the table yet."""
    for kind in _KINDS[source.corpus.kind]:
        present = store.read(table, f"data = {number} AND kind = '{kind}'", ["item"])
        items = range(1 + max((row["item"] for row in present), default=-1), len(source.corpus))
        inputs = _texts(pipeline, source.corpus, items, passage) if kind == "text" else _images(source, items)
        started, done, waiting = time.monotonic(), 0, list[dict[str, Any]]()
        for row in _embedded(pipeline, inputs, kind):
            if len(waiting) >= _ROWS_AT_ONCE and row["item"] != waiting[-1]["item"]:  # whole items: see `present`
                store.append(table, waiting)
                done, waiting = done + len(waiting), []
                rate = done / max(time.monotonic() - started, 1e-3)
                say(f"{source.entry['paths'][0]}: item {row['item']:,} of {items.stop:,}, {rate:.0f} {kind}s/s")
            waiting.append({**row, "kind": kind, "data": number})
        if waiting:
            store.append(table, waiting)


def _images(source: _Source, items: range) -> Read:
    corpus = source.corpus
    for i in items:
        place = corpus._image_at[i, 0] if corpus._image_at[i, 0] >= 0 else corpus._record_at[i, 0]
        image: Any
        try:
            image = (
                source.regions.image(i) if source.regions else load_rgb(corpus.image_bytes(i), where=corpus.where(i))
            )
        except DataError as error:
            image = error
        yield _row(corpus, i, "image", place), image


def _texts(pipeline: Pipeline, corpus: Corpus, items: range, passage: int) -> Read:
    for i in items:
        for j in range(_captions(corpus, i)):
            # Not from its file: a packed one would be unpacked from its beginning for each document.
            text = corpus.text(i, j) if corpus.kind == "pairs" else pipeline.tokenizer.decode(corpus.tokens(i))
            row = {**_row(corpus, i, "text", corpus._record_at[i, 0]), "caption": j}
            found = passages(text, pipeline.tokenizer, passage)
            if not found:
                yield row, DataError("a text without words", where=corpus.where(i), got=repr(text[:40]))
            for p in found:
                yield {**row, "text": text[p.begin : p.end], "begin": p.begin, "end": p.end}, p.ids


def _row(corpus: Corpus, i: int, kind: Kind, place: int) -> dict[str, Any]:
    key, path = corpus.keys[i], corpus.shard_of(i).absolute()
    if path.is_dir():  # of loose files
        path = path / key
    elif kind == "image" and (file := corpus.file_of(i)) is not None:
        path = file.absolute()
    numbers = {"item": i, "caption": 0, "place": int(place), "begin": 0, "end": 0}
    return {"key": key, "text": "", "path": str(path), **numbers}


def _captions(corpus: Corpus, i: int) -> int:
    offsets = corpus.caption_offsets
    return 1 if offsets is None else int(offsets[i + 1] - offsets[i])


def _embedded(pipeline: Pipeline, read: Read, kind: Kind) -> Iterator[dict[str, Any]]:
    """The rows with their vectors; with zeros and the reason where there is none."""
    nothing = np.zeros(pipeline.model.width, np.float32)
    encoder = pipeline.encoder
    embed: Callable[[Any], Tensor] = encoder.embed_texts if kind == "text" else encoder.embed_images
    while some := list(islice(read, _BATCH[kind])):
        inputs = [one for _, one in some if not isinstance(one, UnimoError)]
        vectors = iter(unit(embed(inputs)) if inputs else ())
        for row, one in some:
            vector = nothing if isinstance(one, UnimoError) else next(vectors)
            if not np.isfinite(vector).all():
                one = NumericsError("the model gives no embedding", where=row["key"], got="not finite, or zero")
            if isinstance(one, UnimoError):
                yield {**row, "vector": nothing, "error": json.dumps(one.parts())}
            else:
                yield {**row, "vector": vector, "error": None}


def unit(embedding: Tensor) -> np.ndarray:
    """(n, D) -> float32 rows of length 1, or of NaN where that cannot be (not finite, or zero).

    Released UNIMO-2 does not normalize texts in its score (spec unimo2 §4.3); in an index all are, else long vectors
    would be near everything.
    """
    rows = embedding.float().cpu().numpy()
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(lengths) & (lengths > 0), rows / lengths, np.float32("nan"))


def _report_bad(table: Any, corpus: Corpus, number: int, bad_samples: BadSamples) -> None:
    """Counts what was offered, and names what has no embedding; a document of several such passages once."""
    found = store.read(table, f"data = {number} AND error IS NOT NULL", ["kind", "item", "caption", "key", "error"])
    bad = {(row["kind"], row["item"], row["caption"]): row for row in found}
    for kind in _KINDS[corpus.kind]:
        bad_samples.offer(len(corpus) if kind == "image" else sum(_captions(corpus, i) for i in range(len(corpus))))
    for row in bad.values():
        bad_samples.add(DataError(**json.loads(row["error"])), key=row["key"], shard=corpus.shard_of(row["item"]))
    bad_samples.use(bad_samples.offered - bad_samples.quarantined - bad_samples.used)


# ---- the folder


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    with locked(folder.with_name(f".{folder.name}.lock")):
        yield


def _begun(out: Path, fixed: dict[str, Any], entries: list[dict[str, Any]], add: bool) -> dict[str, Any]:
    """The header of the index in `out`, or of a new one, with these corpora; UsageError if they do not go together."""
    if not (out / store.HEADER).is_file():
        if any(out.iterdir()):
            expected, do = "an empty folder, or an index", "choose another --out"
            raise UsageError("there is something else in the way", where=out, expected=expected, do=do)
        return {**fixed, "data": entries, "finished": 0, "version": 0}
    header = store.read_header(out)
    for name, wanted in fixed.items():
        _require_same(out, name, header[name], wanted)
    there, given = ([_content(entry) for entry in some] for some in (header["data"], entries))
    new, begun = [entry for entry in entries if _content(entry) not in there], there[header["finished"] :]
    if (begun and new) or any(one not in given for one in begun) or (new and not add):
        _require_same(out, "data", _named(header["data"], begun or there), _named(entries, given))
    return {**header, "data": [*header["data"], *new]}


def _content(entry: dict[str, Any]) -> tuple[str, str, str | None]:
    """What tells corpora apart, wherever they lie."""
    return entry["kind"], entry["fingerprint"], entry["regions"]


def _named(entries: list[dict[str, Any]], contents: list[tuple[str, str, str | None]]) -> list[str]:
    """Of some corpora their kind, paths and the beginning of their fingerprint."""
    found = [entry for entry in entries if _content(entry) in contents]
    return [f"{one['kind']} of {', '.join(one['paths'])} ({one['fingerprint'][:8]})" for one in found]


def _require_same(where: Path, name: str, there: Any, wanted: Any) -> None:
    if there != wanted:
        raise UsageError(
            f"the index in this folder was made with {'other' if name == 'data' else 'another'} {name}",
            where=where,
            got=json.dumps(wanted)[:300],
            expected=json.dumps(there)[:300],
            do="give the same as before, --add to a finished index of this model, or choose another --out",
        )
