"""What a search found, and how it is shown on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unimo.retrieval.store import Kind


@dataclass(frozen=True)
class Hit:
    """What was found. kind: text or image. path: its file; place: the byte its record begins at in a shard, or None.

    text: the passage or caption, characters [begin, end) of its document. score: cosine with the query; storage in
    float16 moves it by 0.001 at most. data, item: number of its corpus in index.json, and of the item in that corpus.
    fused: score of the second stage, or None.
    """

    rank: int
    kind: Kind
    key: str
    path: str
    place: int | None
    text: str
    begin: int
    end: int
    score: float
    data: int = 0
    item: int = 0
    fused: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def hit_of(rank: int, row: Mapping[str, Any]) -> Hit:
    """A row of the index, with its `score` and perhaps `fused`."""
    facts = {name: row[name] for name in ("kind", "key", "path", "text", "begin", "end", "data", "item", "score")}
    return Hit(rank, place=None if row["place"] < 0 else row["place"], fused=row.get("fused"), **facts)


def table(hits: Sequence[Hit], width: int = 100) -> list[str]:
    """One line for each hit: rank, cosine, fused score if any, kind, where it is, and how its text begins."""
    lines = []
    for hit in hits:
        fused = "" if hit.fused is None else f"{hit.fused:9.3f}"
        where = hit.path if hit.path.endswith(hit.key) else f"{hit.path} {hit.key}"
        line = f"{hit.rank:3}  {hit.score:6.3f}{fused}  {hit.kind:<5}  {where}  {hit.text[:width]}"
        # A text may come from anyone: no line breaks and no control characters on a terminal.
        lines.append("".join(c if c.isprintable() else " " for c in line).rstrip())
    return lines
