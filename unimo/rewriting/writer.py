"""The file of a shard's rewrites while it is written: whole or absent, and a killed run goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from unimo.corpus.corpus import Corpus
from unimo.disk import disk_error, sync_folder
from unimo.errors import DataError, ResourceError
from unimo.rewriting.rewrite import GRAMMAR
from unimo.rewriting.store import FORMAT, VERSION, parse_line, read_header

_BLOCK = 256  # captions whose lines are computed and written together


def sidecar_header(corpus: Corpus, shard: Path, items: range, settings: dict) -> dict:
    assert corpus.caption_offsets is not None
    captions = int(corpus.caption_offsets[items.stop] - corpus.caption_offsets[items.start])
    return {
        "format": FORMAT,
        "version": VERSION,
        "grammar": GRAMMAR,
        "corpus": corpus.fingerprint,
        "shard": shard.name,
        "first": items.start,
        "items": len(items),
        "captions": captions,
        "settings": settings,
    }


def refuse_other_grammar(place: Path, header: dict) -> None:
    """A corpus must not be rewritten by two grammars, nor hours of work be thrown away unasked."""
    for path in (place, _partial(place)):
        try:
            found, _ = read_header(path)
        except DataError:
            continue  # missing, torn or of no version we know: made anew
        if found != header and found | {"grammar": GRAMMAR} == header:
            raise DataError(
                "rewrites of another grammar",
                where=path,
                got=f"grammar {found['grammar']}",
                expected=f"grammar {GRAMMAR}, which this version of unimo writes",
                do="train on it as it is; or delete it, or name another --out, to rewrite these captions anew",
            )


def _partial(place: Path) -> Path:
    return place.with_name(f".{place.name}.partial")


def is_whole(place: Path, header: dict) -> bool:
    try:
        found, offsets = read_header(place)
    except DataError:
        return False
    return found == header and len(offsets) == header["captions"] + 1


def write_sidecar(
    place: Path, header: dict, names: Sequence[tuple[str, int]], records: Callable[[range], Iterable[dict]]
) -> None:
    """names: (key, caption) of every line; records: makes some lines. Lines go to a partial file block by block; a
    restart keeps its whole blocks and goes on behind them."""
    partial = _partial(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResourceError(
                    "another process is writing these rewrites", where=partial, do="wait for it, or stop it"
                ) from error
            done = _keep_whole_blocks(file, header, names)
            for begin in range(done, len(names), _BLOCK):
                some = range(begin, min(begin + _BLOCK, len(names)))
                file.write(b"".join(_json(record) for record in records(some)))
                file.flush()
            os.fsync(file.fileno())
            partial.replace(place)
            sync_folder(place.parent)
    except OSError as fault:
        raise disk_error(fault, place) from fault


def _keep_whole_blocks(file: BinaryIO, header: dict, names: Sequence[tuple[str, int]]) -> int:
    """Cut the file behind its last whole block, or begin it anew; returns the number of captions it holds."""
    file.seek(0)
    good, kept = 0, 0
    first = file.readline()
    if first == _json(header):
        good = at = len(first)
        for n, name in enumerate(names, 1):
            line = file.readline()
            at += len(line)
            try:
                record = parse_line(line, "") if line.endswith(b"\n") else {}
            except DataError:
                record = {}
            if (record.get("key"), record.get("caption")) != name:
                break
            if n % _BLOCK == 0 or n == len(names):
                good, kept = at, n
    file.truncate(good)
    file.seek(good)
    if not good:
        file.write(_json(header))
    return kept


def _json(record: dict) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
