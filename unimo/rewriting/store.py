"""Prepared rewrites of a pairs corpus, for training: token ids of a caption's positives and hard negatives.

`unimo prepare rewrites` leaves a sidecar `SHARD.pairs.rewrites.safetensors` (see `unimo.sidecar`) per shard, with an
item for every caption, in the corpus' order. Its one column, `records` (bytes) uint8, is JSON:

    {"positives": [text, ...], "sentences": [[item, caption, similarity], ...],
     "nodes": [[level, [[begin, end, new, kind], ...]], ...]}

Sentence level negatives are captions of other images, so the record only points at them. The header names the corpus,
the items of the shard, the settings and the grammar (`unimo.rewriting.rewrite.GRAMMAR`); its notes say of which
captions no negative could be made, and why.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.corpus.index_file import beside_index
from unimo.data.sample import NODE_KINDS, NodeKind, Nodes
from unimo.errors import DataError, UsageError
from unimo.rewriting.rewrite import GRAMMAR, Change, Level, Rewrite
from unimo.sidecar import Columns, Format, Sidecar, plain
from unimo.tokenizer import Tokenizer

FORMAT = Format("rewrites", 3, "unimo prepare rewrites")
COLUMNS: Columns = {"records": (np.dtype(np.uint8), ())}
LEVELS: tuple[Level, ...] = ("sentence", "phrase", "word")
_KEPT = 2**18  # captions whose nodes are kept, a few hundred bytes each


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
    return beside_index(shard, "pairs", out, "rewrites.safetensors")


def sidecar_header(corpus: Corpus, items: range, settings: dict[str, Any]) -> dict[str, Any]:
    """What decides the content of a sidecar."""
    where = {"corpus": corpus.fingerprint, "first": items.start, "items": len(items)}
    return plain({**where, "grammar": GRAMMAR, "settings": settings})


class Rewrites:
    """The rewrites of every caption of one corpus; only paths and offsets in memory, so safe to hand to workers."""

    def __init__(self, corpus: Corpus, files: list[tuple[Sidecar, range]]):
        """files: the sidecar and the items of each shard."""
        self._corpus, self._tokenizer, self._files = corpus, Tokenizer.default(), files
        self._first = np.array([items.start for _, items in files])
        self._nodes: dict[tuple[int, int], Nodes] = {}

    @classmethod
    def open(cls, path: str | Path | None, corpus: Corpus) -> Rewrites:
        """The sidecars of a corpus under the folder `path` (None: beside the shards).

        Raises DataError where one is missing, damaged or was made for another corpus.
        """
        if corpus.caption_offsets is None:
            raise UsageError("rewrites belong to pairs", where="Rewrites.open", got=corpus.kind, expected="pairs")
        files = []
        for shard, items in corpus.ranges():
            sidecar = Sidecar(sidecar_path(shard, path), FORMAT)
            if sidecar.header["corpus"] != corpus.fingerprint:
                raise DataError(
                    "rewrites were made for another corpus",
                    where=sidecar.path,
                    got=str(sidecar.header["corpus"])[:16],
                    expected=corpus.fingerprint[:16],
                    do=f"run `{FORMAT.command}` again on these pairs, with the same fields and tokenizer",
                )
            files.append((sidecar, items))
        return cls(corpus, files)

    def record(self, i: int, j: int) -> dict[str, Any]:
        """What was written of caption j of item i."""
        sidecar, items = self._files[int(np.searchsorted(self._first, i, side="right")) - 1]
        captions = self._corpus.caption_offsets
        assert captions is not None
        if not (i in items and 0 <= j < captions[i + 1] - captions[i]):
            raise IndexError(f"caption {j} of item {i}")
        return read_record(sidecar, int(captions[i] - captions[items.start]) + j)

    def positives(self, i: int, j: int) -> list[str]:
        """Texts that say the same as caption j of item i; may be none."""
        return list(self.record(i, j)["positives"])

    def negatives(self, i: int, j: int) -> list[Negative]:
        """All hard negatives of caption j of item i, level by level."""
        record = self.record(i, j)
        return [self._negative(record, (i, j), entry) for level in LEVELS for entry in _entries(record, level)]

    def sample(
        self,
        i: int,
        j: int,
        rng: np.random.Generator,
        *,
        positives: int,
        negatives: int,
        only: Collection[str] = (),
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Token ids, without special ids, of a few rewrites drawn without replacement: (positives, negatives).

        Kinds of negatives take turns in an order drawn anew (see `stratum`): a caption has a dozen objects to put in
        for one relation, and each has to be learnt. Where there are fewer, all of them are given.
        only: strata; of a caption that has any of them, no negatives of others.
        """
        record = self.record(i, j)
        texts = record["positives"]
        same = [texts[k] for k in rng.permutation(len(texts))[:positives]]
        entries = [entry for level in LEVELS for entry in _entries(record, level)]
        caption = self._corpus.text(i, j)
        if only:
            entries = [entry for entry in entries if stratum(entry, caption) in only] or entries
        met: Counter[str] = Counter()
        tie_break: dict[str, float] = {}
        turns = []
        for k in rng.permutation(len(entries)):
            kind = stratum(entries[k], caption)
            turns.append((met[kind], tie_break.setdefault(kind, rng.random()), k))
            met[kind] += 1
        chosen = [self._negative(record, (i, j), entries[k]).text for *_, k in sorted(turns)[:negatives]]
        rows = [np.array(row, dtype=np.uint16) for row in self._tokenizer.encode_batch([*same, *chosen])]
        return rows[: len(same)], rows[len(same) :]

    def nodes(self, i: int, j: int) -> Nodes:
        """The nodes of the scene graph of caption j of item i that a rewrite replaces, each once."""
        found = self._nodes.get((i, j))
        if found is None:
            found = self._find_nodes(i, j)
            if len(self._nodes) < _KEPT:
                self._nodes[i, j] = found
        return found

    def _find_nodes(self, i: int, j: int) -> Nodes:
        caption = self._corpus.text(i, j)
        spans = self._tokenizer.spans(caption)
        starts, ends = ([span[side] for span in spans] for side in (0, 1))
        rewritten: defaultdict[tuple[int, int, NodeKind], set[str]] = defaultdict(set)
        for level, changes in self.record(i, j)["nodes"]:
            for begin, end, new, kind in changes:
                if level == "word" or kind == "relation":  # a phrase in place of another is not one node
                    rewritten[begin, end, kind].add(new)
        rows: dict[int, tuple[int, int, int, int]] = {}
        for number, ((first, last, kind), texts) in enumerate(sorted(rewritten.items())):
            old = caption[first:last]
            for begin, end, new in [word for text in sorted(texts) for word in _differing(old, text, first)]:
                space = begin > 0 and caption[begin - 1] == " "  # it belongs to the token behind it
                a, b = bisect_left(starts, begin - space), bisect_right(ends, end)
                if a >= b or (starts[a], ends[b - 1]) != (begin - space, end):
                    continue  # a token holds more than this word
                other = self._tokenizer.encode(" " * space + new)
                instead = other if len(other) == b - a else [-1] * (b - a)
                rows |= {a + k: (a + k, one, NODE_KINDS.index(kind), number) for k, one in enumerate(instead)}
        return Nodes(*np.array(sorted(rows.values()), dtype=np.int64).reshape(-1, 4).T)

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


def _differing(old: str, new: str, begin: int) -> list[tuple[int, int, str]]:
    """Spans of the words of `old`, which begins at character `begin`, that `new` has not at the same place, and what it
    has there; all of `old` and `new` where the two have unlike many words."""
    words, others = old.split(" "), new.split(" ")
    if len(words) != len(others):
        return [(begin, begin + len(old), new)]
    starts = [begin + len(" ".join(words[:k])) + (k > 0) for k in range(len(words))]
    return [(at, at + len(word), other) for at, word, other in zip(starts, words, others) if word != other]


def stratum(entry: list, caption: str) -> str:
    """What has to be understood to notice a negative: another "sentence", one "object", "attribute" or "relation",
    an "object exchange" or "attribute exchange" (the words stay, who is what does not), or "several" of these."""
    level, rows = entry[0], entry[1]
    if level not in LEVELS:
        return "sentence"
    if len(rows) == 1:
        return rows[0][3]
    if len(rows) == 2:
        (begin, end, new, kind), (other_begin, other_end, other_new, _) = rows
        if caption[begin:end].lower() == other_new.lower() and caption[other_begin:other_end].lower() == new.lower():
            return f"{kind} exchange"
    return "several"


def _entries(record: dict[str, Any], level: Level) -> list[list]:
    """The negatives of one level, as they stand in a line."""
    return record["sentences"] if level == "sentence" else [entry for entry in record["nodes"] if entry[0] == level]


def read_record(sidecar: Sidecar, number: int) -> dict[str, Any]:
    """Of the caption with this number in a sidecar."""
    data = sidecar.item(number, COLUMNS)["records"].tobytes()
    try:
        return json.loads(data)
    except ValueError as error:
        where, do = f"{sidecar.path}, record {number}", f"run `{FORMAT.command}` again"
        raise DataError("unreadable record of rewrites", where=where, got=error, do=do) from error


def record_bytes(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """A record as its sidecar keeps it."""
    return {"records": np.frombuffer(json.dumps(record, separators=(",", ":")).encode(), np.uint8)}
