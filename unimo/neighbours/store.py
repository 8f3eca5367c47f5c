"""Neighbours of pairs, as training reads them: related images and related sentences, drawn at random.

A folder of `unimo prepare neighbours` holds

    sentences.safetensors     document, first, last (s,) int32: a document, and the tokens [first, last) of it
    00000.safetensors …       one per shard of the pairs, n pairs each, k neighbours at most:
        image_ids, sentence_ids         (n, k) int32, best first: items of the images, rows of `sentences`; then -1
        image_scores, sentence_scores   (n, k) float16

Scores of images are cosines, also where shared objects chose them. Every file is a sidecar (`unimo.sidecar`) whose
header names the settings, hashes of the model and of the detected objects (labels) where there were any, and the
fingerprints of the three corpora, so that neighbours of other data are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimo.corpus.corpus import Corpus
from unimo.errors import DataError
from unimo.sidecar import Format, Sidecar

FORMAT = Format("neighbours", 3, "unimo prepare neighbours")
SENTENCES = "sentences.safetensors"
SIDES = ("image", "sentence")
MADE_FROM = ("settings", "model", "labels", "pairs", "images", "texts")  # fields of every header


def read_part(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of one file. DataError when it is missing, damaged or of another version."""
    part = Sidecar(path, FORMAT)
    return part.header, part.arrays()


class Neighbours:
    """Related images and sentences of n pairs. Only arrays and corpora: safe to hand to workers.

    counts: side -> (n,) int64, how many neighbours each pair has ("image", "sentence"); zeros for an absent side.
    scores: side -> (n, k) float16. header: what they were made from (MADE_FROM).
    """

    def __init__(self, header: dict[str, Any], arrays: dict[str, np.ndarray], spans: np.ndarray, texts: Corpus | None):
        """arrays: those of all parts. spans: (s, 3) document, first and last + 1 token."""
        self.header, self._spans, self._texts = header, spans, texts
        self._ids = {side: arrays[f"{side}_ids"] for side in SIDES}
        self.scores = {side: arrays[f"{side}_scores"] for side in SIDES}
        self.counts = {side: (ids >= 0).sum(axis=1) for side, ids in self._ids.items()}

    def __len__(self) -> int:
        return len(self._ids["image"])

    @classmethod
    def open(
        cls, path: str | Path, pairs: Corpus, images: Corpus | None = None, texts: Corpus | None = None
    ) -> Neighbours:
        """Reads what was prepared for these very corpora.

        Raises DataError when a part is missing or damaged, or was made from other corpora (all fingerprints differ by
        content, tokenizer and field names).
        """
        folder = Path(path)
        files = [file for file in sorted(folder.glob("*.safetensors")) if file.name != SENTENCES]
        parts = [read_part(file) for file in files]
        corpora = {"pairs": pairs, "images": images, "texts": texts}
        for file, (header, _) in zip(files, parts):
            _check_corpora(file, header, corpora)
        firsts = np.cumsum([0, *(header["count"] for header, _ in parts)])
        if firsts[-1] != len(pairs) or [header["first"] for header, _ in parts] != firsts[:-1].tolist():
            raise DataError(
                "neighbours are incomplete",
                where=folder,
                got=f"{firsts[-1]} of {len(pairs)} pairs",
                expected="a part for every shard of the pairs",
                do=f"run `{FORMAT.command}` again: it goes on where it stopped",
            )
        spans = np.zeros((0, 3), np.int32)
        made = [{name: header[name] for name in MADE_FROM} for header, _ in parts]
        if texts is not None:
            header, columns = read_part(folder / SENTENCES)
            spans = np.stack([columns[name] for name in ("document", "first", "last")], axis=1)
            made.append({name: header[name] for name in MADE_FROM})
        if any(one != made[0] for one in made):
            raise _unusable(folder, "parts made with different settings", "parts of one preparation")
        arrays = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
        for side, limit in (("image", 0 if images is None else len(images)), ("sentence", len(spans))):
            if (highest := int(arrays[f"{side}_ids"].max(initial=-1))) >= limit:
                raise _unusable(folder, f"{side} {highest}", f"numbers below {limit}")
        return cls(made[0], arrays, spans, texts)

    def without(self, images: np.ndarray, texts: np.ndarray) -> Neighbours:
        """The same, but for some items of the image corpus and for every sentence of some documents."""
        sentences = np.flatnonzero(np.isin(self._spans[:, 0], texts))
        gone = {"image": images, "sentence": sentences}
        ids = {f"{side}_ids": np.where(np.isin(ids, gone[side]), -1, ids) for side, ids in self._ids.items()}
        scores = {f"{side}_scores": self.scores[side] for side in SIDES}
        return Neighbours(self.header, {**ids, **scores}, self._spans, self._texts)

    def images(self, item: int) -> np.ndarray:
        """(k,) int32 items of the image corpus, most similar first."""
        return self._of("image", item)

    def sentences(self, item: int) -> np.ndarray:
        """(k,) int32 numbers of sentences, most similar first."""
        return self._of("sentence", item)

    def tokens(self, sentence: int) -> np.ndarray:
        """uint16 ids of a sentence; no special ids."""
        document, first, last = (int(value) for value in self._spans[sentence])
        assert self._texts is not None
        return self._texts.tokens(document)[first:last]

    def _of(self, side: str, item: int) -> np.ndarray:
        if not 0 <= item < len(self):
            raise IndexError(f"pair {item} of {len(self)}")
        row = self._ids[side][item]
        return row[row >= 0]


def _check_corpora(file: Path, header: Mapping[str, Any], corpora: Mapping[str, Corpus | None]) -> None:
    for name, corpus in corpora.items():
        got, wanted = header.get(name), None if corpus is None else corpus.fingerprint
        if got != wanted:
            raise DataError(
                f"neighbours belong to other {name}",
                where=file,
                got=f"fingerprint {str(got)[:16]}" if got else f"prepared without {name}",
                expected=f"fingerprint {wanted[:16]}" if wanted else f"neighbours prepared without {name}",
                do=f"name the corpora the neighbours were prepared from, or run `{FORMAT.command}` on these",
            )


def _unusable(path: Path, got: str, expected: str) -> DataError:
    do = f"run `{FORMAT.command}` again: it makes again what does not fit"
    return DataError("cannot use these neighbours", where=path, got=got, expected=expected, do=do)
