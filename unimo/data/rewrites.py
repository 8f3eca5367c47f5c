"""Prepared rewrites of a pairs corpus, for training: token ids of a caption's positives and hard negatives.

`unimo prepare rewrites` leaves one text file per shard. Its first line says for which corpus and with which settings it
was made; then comes one line per caption, in the corpus' order, also for captions of which nothing could be made:

    {"format": "unimo-rewrites", "version": 1, "corpus": fingerprint, "shard": ..., "first": item, "captions": m, ...}
    {"key": ..., "caption": j, "positives": [text, ...], "sentences": [[item, caption, similarity], ...],
     "nodes": [[level, [[begin, end, new, kind], ...]], ...], "bad": reason or null}

Sentence level negatives are captions of other pictures, so the line only points at them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimo.data import shards
from unimo.data.rewriting import Change, Level, Rewrite
from unimo.data.sources import Corpus
from unimo.errors import DataError, UsageError

FORMAT, VERSION = "unimo-rewrites", 1
LEVELS: tuple[Level, ...] = ("sentence", "phrase", "word")
_BLOCK = 2**22


@dataclass(frozen=True)
class Negative:
    """A hard negative of a caption. source: the (item, caption) it is, at sentence level; changes: what was replaced,
    at the others."""

    level: Level
    kind: str
    text: str
    changes: tuple[Change, ...] = ()
    source: tuple[int, int] | None = None
    similarity: float | None = None


def sidecar_path(shard: Path, out: str | Path | None) -> Path:
    """Where the rewrites of a shard lie: in `out`, else where its index would."""
    index = shards.index_path(shard, "pairs", None if out is None else Path(out))
    return index.with_name(index.name.removesuffix("index.safetensors") + "rewrites.jsonl")


def items_of_shards(corpus: Corpus) -> list[tuple[Path, range]]:
    """Each shard with the items it holds; shards without items are left out."""
    found: list[tuple[Path, range]] = []
    for i in range(len(corpus)):
        shard = corpus.shard_of(i)
        if found and found[-1][0] == shard:
            found[-1] = (shard, range(found[-1][1].start, i + 1))
        else:
            found.append((shard, range(i, i + 1)))
    return found


class Rewrites:
    """The rewrites of every caption of one corpus; only paths and offsets in memory, so safe to hand to workers."""

    def __init__(self, corpus: Corpus, tokenizer, files: list[tuple[Path, range, np.ndarray]]):
        """files: path, items, and (captions + 1,) offsets of the lines of each shard's sidecar."""
        self._corpus, self._tokenizer, self._files = corpus, tokenizer, files
        self._first = np.array([items.start for _, items, _ in files])

    @classmethod
    def open(cls, path: str | Path | None, corpus: Corpus, tokenizer=None) -> Rewrites:
        """The sidecars of a corpus under the folder `path` (None: beside the shards).

        Raises DataError where one is missing, incomplete or was made for another corpus.
        """
        if corpus.caption_offsets is None:
            raise UsageError("rewrites belong to pairs", where="Rewrites.open", got=corpus.kind, expected="pairs")
        if tokenizer is None:
            from unimo.tokenizer import Tokenizer

            tokenizer = Tokenizer.default()
        files = []
        for shard, items in items_of_shards(corpus):
            place = sidecar_path(shard, path)
            header, offsets = read_header(place)
            captions = int(corpus.caption_offsets[items.stop] - corpus.caption_offsets[items.start])
            if header.get("corpus") != corpus.fingerprint:
                raise DataError(
                    "rewrites were made for another corpus",
                    where=place,
                    got=str(header.get("corpus"))[:16],
                    expected=corpus.fingerprint[:16],
                    do="run `unimo prepare rewrites` again on these pairs, with the same fields and tokenizer",
                )
            if len(offsets) - 1 != captions or header.get("captions") != captions:
                raise DataError(
                    "rewrites are incomplete",
                    where=place,
                    got=f"{len(offsets) - 1} lines",
                    expected=f"{captions} captions",
                    do="run `unimo prepare rewrites` again",
                )
            files.append((place, items, offsets))
        return cls(corpus, tokenizer, files)

    def record(self, i: int, j: int) -> dict[str, Any]:
        """The line of caption j of item i; DataError where it is not that caption's."""
        place, items, offsets = self._files[int(np.searchsorted(self._first, i, side="right")) - 1]
        assert self._corpus.caption_offsets is not None
        captions = self._corpus.caption_offsets
        if not (i in items and 0 <= j < captions[i + 1] - captions[i]):
            raise IndexError(f"caption {j} of item {i}")
        line = int(captions[i] - captions[items.start]) + j
        begin, end = int(offsets[line]), int(offsets[line + 1])
        where = f"{place}, line {line + 2}"
        record = parse_line(shards.read_range(place, begin, end - begin), where)
        if (record["key"], record["caption"]) != (self._corpus.keys[i], j):
            raise DataError(
                "rewrites lie out of order",
                where=where,
                got=f"{record['key']}, caption {record['caption']}",
                expected=f"{self._corpus.keys[i]}, caption {j}",
                do="run `unimo prepare rewrites` again",
            )
        return record

    def positives(self, i: int, j: int) -> list[str]:
        """Texts that say the same as caption j of item i; may be none."""
        return list(self.record(i, j)["positives"])

    def negatives(self, i: int, j: int) -> list[Negative]:
        """All hard negatives of caption j of item i, level by level."""
        record = self.record(i, j)
        return [self._negative(record, (i, j), entry) for level in LEVELS for entry in _entries(record, level)]

    def sample(
        self, i: int, j: int, rng: np.random.Generator, *, positives: int, negatives: Mapping[Level, int]
    ) -> tuple[list[np.ndarray], list[tuple[Level, np.ndarray]]]:
        """Token ids, without special ids, of a few rewrites drawn without replacement: (positives, negatives).

        negatives: how many per level. Where a caption has fewer of a level, all of them are given.
        """
        if unknown := set(negatives) - set(LEVELS):
            raise UsageError("unknown level of rewriting", got=sorted(unknown), expected=", ".join(LEVELS))
        record = self.record(i, j)
        texts = record["positives"]
        same = [texts[k] for k in rng.permutation(len(texts))[:positives]]
        chosen: list[Negative] = []
        for level in LEVELS:
            entries = _entries(record, level)
            drawn = rng.permutation(len(entries))[: negatives.get(level, 0)]
            chosen += [self._negative(record, (i, j), entries[k]) for k in drawn]
        rows = self._tokenizer.encode_batch([*same, *(negative.text for negative in chosen)])
        ids = [np.array(row, dtype=np.uint16) for row in rows]
        return ids[: len(same)], [(negative.level, row) for negative, row in zip(chosen, ids[len(same) :])]

    def _negative(self, record: dict[str, Any], place: tuple[int, int], entry: list) -> Negative:
        if entry[0] not in LEVELS:
            item, other, similarity = entry
            text = self._corpus.text(item, other)
            return Negative("sentence", "sentence", text, (), (item, other), similarity)
        caption = self._corpus.text(*place)
        level, rows = entry
        changes = tuple(Change(kind, (begin, end), caption[begin:end], new) for begin, end, new, kind in rows)
        rewrite = Rewrite(level, "+".join(sorted(change.kind for change in changes)), changes)
        return Negative(level, rewrite.kind, rewrite.apply(caption), changes)


def _entries(record: dict[str, Any], level: Level) -> list[list]:
    """The negatives of one level, as they stand in a line."""
    return record["sentences"] if level == "sentence" else [entry for entry in record["nodes"] if entry[0] == level]


def read_header(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The first line of a sidecar, and the (lines,) offsets at which its whole further lines begin, then the end.

    Raises DataError where the file is missing or no sidecar of this version.
    """
    try:
        with path.open("rb") as stream:
            first = stream.readline(2**20)
            offsets = [len(first)]
            at = len(first)
            while block := stream.read(_BLOCK):
                breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + 1
                offsets += (breaks + at).tolist()
                at += len(block)
    except OSError as error:
        raise DataError(
            "no rewrites of this shard",
            where=path,
            got=error.strerror,
            expected="a file of `unimo prepare rewrites`",
            do="run `unimo prepare rewrites`, or name the folder it wrote to",
        ) from error
    header = parse_line(first, f"{path}, line 1") if first.endswith(b"\n") else {}
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise DataError(
            "not a file of rewrites that this version reads",
            where=path,
            got=f"{header.get('format')}, version {header.get('version')}",
            expected=f"{FORMAT}, version {VERSION}",
            do="run `unimo prepare rewrites` again",
        )
    return header, np.array(offsets, dtype=np.int64)


def parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise DataError("unreadable line of rewrites", where=where, got=error, do="run the command again") from error
    return record
