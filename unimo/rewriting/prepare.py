"""Rewrites of every caption of a pairs corpus (`unimo prepare rewrites`): UNIMO section 3.2, Fig. 3.

    sentence, positive   translated to another language and back (Edunov et al. 2018), where models are given
    sentence, negative   the captions of other images nearest by TF-IDF, below a highest similarity
    phrase, word         nodes of the scene graph replaced (unimo.rewriting.rewrite); of several candidates those that
                         a masked language model expects (unimo.rewriting.masked_language_model), where one is given,
                         and that read most like captions (unimo.rewriting.naturalness)

One sidecar per shard (format: unimo.rewriting.store). Each record is a pure function of (settings, corpus, caption).
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unimo.cluster import Map
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, Fields, Verify, open_corpus
from unimo.errors import DataError, UsageError
from unimo.rewriting.back_translation import BackTranslation, identity
from unimo.rewriting.naturalness import Naturalness
from unimo.rewriting.rewrite import Level, Rewrite
from unimo.rewriting.rewrite import rewrites as node_rewrites
from unimo.rewriting.scene_graph import Parser, SceneGraph
from unimo.rewriting.store import COLUMNS, FORMAT, read_record, record_bytes, sidecar_header, sidecar_path
from unimo.rewriting.tfidf import NearCaptions
from unimo.rewriting.vocabulary import Mentions, Vocabularies, is_action
from unimo.rng import generator
from unimo.sidecar import BLOCK, Sidecar, SidecarWriter, standing

if TYPE_CHECKING:
    from unimo.rewriting.masked_language_model import MaskedLanguageModel

CANDIDATES = 3  # drawn for each phrase or word level negative that is kept
EXPECTED = 3  # of so many drawn, the one that a masked language model expects most may be a candidate
_SAMPLE, _OF_EACH = 8000, 12  # captions, and candidates of each level, from which naturalness is learnt
_ASKED = 500  # captions whose own words a masked language model is asked about
# Quantiles of their scores that rewritten words reach. Of phrases that are as expected as half of the captions' own
# only few and always the same are left, by which a text classifier tells them.
_LEAST: dict[Level, float] = {"word": 0.5, "phrase": 0.25}
_SHORTLIST = 4  # times as many neighbours as wanted are looked at, for some will be refused
NO_OBJECT = "caption names no object to rewrite"
NO_NEGATIVE = "no negative of this caption could be made"


@dataclass(frozen=True)
class Counts:
    """How many rewrites per caption at most. UNIMO has 3 positives and 100 negatives; how it divides these is not
    published."""

    positives: int = 3  # sentence level, by back-translation
    sentences: int = 60  # InterBERT keeps 30 captions with a similarity below 0.5
    phrases: int = 20
    words: int = 20

    def __post_init__(self):
        if min(asdict(self).values()) < 0:
            raise UsageError("a count of rewrites is negative", got=asdict(self), expected="0 or more")


def rewrites(
    paths: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    counts: Counts | None = None,
    max_similarity: float = 0.5,
    candidates: int = CANDIDATES,
    translate: Sequence[tuple[str, str]] = (),
    masked_lm: str | Path | None = None,
    seed: int = 0,
    fields: Fields | None = None,
    bad_samples: BadSamples | None = None,
    index_dir: str | Path | None = None,
    verify: Verify = "decode",
    max_bad_fraction: float = 0.01,
    device: str = "cpu",
    run: Map = map,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Write the sidecar of every shard that has none for this corpus and these settings; one row per shard.

    out: folder of the sidecars; None puts them where the shards' indexes lie. max_similarity: cosine of TF-IDF from
    which on a caption of another image counts as a paraphrase. candidates: drawn for each phrase and word level
    negative, of which those are kept that read most like captions; 1: all are, as they are drawn. translate: (there,
    back) pairs of translation models, folders or hub names, one pair per pivot language; none given, no positives.
    masked_lm: a run or saved model of ours, or a folder of `transformers`; candidates are then the third of what was
    drawn whose new words it expects most, if it expects them about as much as the captions' own words.
    bad_samples: names captions without rewrites. run: who rewrites blocks of captions. Returns rows (shard, path,
    built, captions, positives, sentences, phrases, words, bad, seconds).

    Raises what `open_corpus` raises, UsageError for impossible settings or a missing extra, DataError where a sidecar
    of this corpus and these settings is of another grammar, ResourceError when the disk refuses or another process is
    writing the same sidecar.
    """
    if not 0 < max_similarity <= 1:
        raise UsageError("impossible max_similarity", got=max_similarity, expected="above 0, at most 1")
    if candidates < 1:
        raise UsageError("impossible candidates", got=candidates, expected="1 or more")
    counts = counts or Counts()
    bad_samples = BadSamples() if bad_samples is None else bad_samples
    reading: dict[str, Any] = {"index_dir": index_dir, "verify": verify, "max_bad_fraction": max_bad_fraction}
    corpus = open_corpus("pairs", paths, fields=fields, bad_samples=bad_samples, run=run, **reading)
    pivots = [list(map(identity, pair)) for pair in translate]
    settings = {**asdict(counts), "max_similarity": max_similarity, "candidates": candidates, "seed": seed}
    settings["translate"] = pivots
    expecting = None
    if masked_lm is not None:
        from unimo.rewriting.masked_language_model import open_masked_lm  # and torch

        expecting = open_masked_lm(masked_lm, device)
        settings["masked_lm"] = expecting.identity
    out = index_dir if out is None else out
    shards = [
        (shard, items, sidecar_path(shard, out), sidecar_header(corpus, items, settings))
        for shard, items in corpus.ranges()
    ]
    for _, _, place, header in shards:
        _refuse_other_grammar(place, header)
    rewriter: _Rewriter | None = None  # learns from all captions, which a finished corpus can be spared
    rows = []
    for shard, items, place, header in shards:
        started = time.monotonic()
        sidecar = standing(place, FORMAT, header)
        built = sidecar is None
        if sidecar is None:
            back = [BackTranslation(*pair, device=device) for pair in translate if counts.positives and not rewriter]
            rewriter = rewriter or _Rewriter(corpus, counts, max_similarity, candidates, back, seed, expecting)
            sidecar = _write(place, header, rewriter, items, run)
        row = {**_summary(sidecar, shard, bad_samples), "built": built, "seconds": round(time.monotonic() - started, 3)}
        rows.append(row)
        say(_line(row))
    return rows


def _refuse_other_grammar(place: Path, header: dict[str, Any]) -> None:
    """A corpus must not be rewritten by two grammars, nor hours of computing be thrown away unasked."""
    try:
        found = Sidecar(place, FORMAT).header
    except DataError:
        return  # missing, damaged or of another version: made (again)
    if found["grammar"] != header["grammar"] and {**found, "grammar": header["grammar"]}.items() >= header.items():
        raise DataError(
            "rewrites of another grammar",
            where=place,
            got=f"grammar {found['grammar']}",
            expected=f"grammar {header['grammar']}, which this version of unimo writes",
            do="train on it as it is; or delete it, or name another --out, to rewrite these captions again",
        )


def _write(place: Path, header: dict[str, Any], rewriter: _Rewriter, items: range, run: Map) -> Sidecar:
    numbers = range(*(int(rewriter.offsets[i]) for i in (items.start, items.stop)))
    names = [f"{rewriter.corpus.keys[i]}#{j}" for i, j in map(rewriter.place_of, numbers)]
    with SidecarWriter(place, FORMAT, header, names, COLUMNS) as writer:
        blocks = (numbers[begin : begin + BLOCK] for begin in range(len(writer), len(numbers), BLOCK))
        for record, bad in chain.from_iterable(run(rewriter, blocks)):
            writer.add(record_bytes(record), bad)
    return Sidecar(place, FORMAT)


class _Rewriter:
    """Makes the records of a corpus, with a parser and vocabularies learnt from all of its captions."""

    def __init__(
        self,
        corpus: Corpus,
        counts: Counts,
        max_similarity: float,
        candidates: int,
        back: Sequence[BackTranslation],
        seed: int,
        masked_lm: MaskedLanguageModel | None = None,
    ):
        assert corpus.caption_offsets is not None
        self.corpus, self.counts, self.max_similarity, self.seed = corpus, counts, max_similarity, seed
        self.back, self.offsets, self.masked_lm = back, corpus.caption_offsets, masked_lm
        self.texts = [text for i in range(len(corpus)) for text in corpus.captions(i)]
        self.owner = np.repeat(np.arange(len(corpus)), np.diff(self.offsets))
        parser = Parser.learn(self.texts)
        self.graphs = [parser.parse(text) for text in self.texts]
        self.vocabularies = Vocabularies(map(self.graphs_of, range(len(corpus))))
        self.near = NearCaptions(self.texts, self.owner) if counts.sentences else None
        self.expected = {} if masked_lm is None else self._expected(masked_lm)
        filtered = candidates > 1 and (counts.words or counts.phrases)
        self.candidates, self.natural = candidates, self._naturalness() if filtered else None

    def place_of(self, number: int) -> tuple[int, int]:
        """Item and caption of a caption of the corpus."""
        item = int(self.owner[number])
        return item, number - int(self.offsets[item])

    def where(self, numbers: Sequence[int]) -> str:
        item, j = self.place_of(numbers[0])
        return f"{self.corpus.where(item)}, caption {j}, and {len(numbers) - 1} captions behind it"

    def graphs_of(self, item: int) -> tuple[SceneGraph, ...]:
        return tuple(self.graphs[slice(*self.offsets[item : item + 2])])

    def __call__(self, numbers: Sequence[int]) -> Iterator[tuple[dict[str, Any], str | None]]:
        """The records of some captions, and why one has no negatives."""
        for number, similar, positives in zip(numbers, self._sentences(numbers), self._positives(numbers)):
            (item, j), graph = self.place_of(number), self.graphs[number]
            nodes = self._nodes(item, j, graph)
            none = (self.counts.words or self.counts.phrases) and not nodes and not similar
            bad = NO_OBJECT if not graph.objects else NO_NEGATIVE if none else None
            yield {"positives": positives, "sentences": similar, "nodes": [_entry(rewrite) for rewrite in nodes]}, bad

    def _naturalness(self) -> Naturalness:
        """Which candidates read like captions, learnt from a sample of captions and candidates of them."""
        natural = Naturalness([self.texts[slice(*self.offsets[i : i + 2])] for i in range(len(self.corpus))])
        numbers = np.flatnonzero([bool(graph.objects) for graph in self.graphs])
        rng, sample = generator(self.seed, "naturalness"), []
        for number in np.sort(rng.permutation(numbers)[:_SAMPLE]).tolist():
            item, graph = int(self.owner[number]), self.graphs[number]
            for level, some in sorted(self._drawn(item, graph, rng, words=_OF_EACH, phrases=_OF_EACH).items()):
                sample.append(natural.drawn(item, level, graph.caption, [one.apply(graph.caption) for one in some]))
        natural.learn(sample)
        return natural

    def _expected(self, masked_lm: MaskedLanguageModel) -> dict[Level, float]:
        """The score that rewritten words must reach, by level: a low one of the words that captions have there."""
        rng, found = generator(self.seed, "expected"), defaultdict(list)
        for number in rng.permutation(np.flatnonzero([bool(graph.objects) for graph in self.graphs]))[:_ASKED].tolist():
            graph, graphs = self.graphs[number], self.graphs_of(int(self.owner[number]))
            drawn = node_rewrites(graph, graphs, self.vocabularies, rng, words=_OF_EACH, phrases=_OF_EACH)
            own = [[change.span for change in one.changes] for one in drawn]
            for one, score in zip(drawn, masked_lm.scores([graph.caption] * len(own), own)):
                found[one.level].append(score)
        return {level: float(np.quantile(scores, _LEAST[level])) for level, scores in found.items()}

    def _drawn(
        self, item: int, graph: SceneGraph, rng: np.random.Generator, **wanted: int
    ) -> dict[Level, list[Rewrite]]:
        """Candidates of a caption, by level, in the order they were drawn."""
        more = {levels: count * (EXPECTED if self.masked_lm else 1) for levels, count in wanted.items()}
        drawn: dict[Level, list[Rewrite]] = defaultdict(list)
        for one in node_rewrites(graph, self.graphs_of(item), self.vocabularies, rng, **more):
            drawn[one.level].append(one)
        if self.masked_lm is None:
            return drawn
        passed = {}
        for level, some in drawn.items():
            texts = [one.apply(graph.caption) for one in some]
            scores = self.masked_lm.scores(texts, [one.spans() for one in some])
            scores[scores < self.expected.get(level, -np.inf)] = -np.inf
            passed[level] = _best(some, scores, EXPECTED)
        return {level: some for level, some in passed.items() if some}

    def _nodes(self, item: int, j: int, graph: SceneGraph) -> list[Rewrite]:
        """The phrase and word level negatives of a caption, in the order they were drawn."""
        rng = generator(self.seed, "rewrites", self.corpus.keys[item], j)
        wanted = {"words": self.counts.words * self.candidates, "phrases": self.counts.phrases * self.candidates}
        drawn = self._drawn(item, graph, rng, **wanted)
        if self.natural is not None:
            for level, some in drawn.items():
                scores = self.natural.scores(item, level, [one.apply(graph.caption) for one in some])
                drawn[level] = _best(some, scores, self.candidates)
        return list(chain.from_iterable(drawn.values()))

    def _sentences(self, numbers: Sequence[int]) -> Iterator[list]:
        """For each caption its negatives [item, caption, similarity], nearest first."""
        wanted = self.counts.sentences
        if self.near is None:
            yield from ([] for _ in numbers)
            return
        for number, near in zip(numbers, self.near.nearest(numbers, _SHORTLIST * wanted, self.max_similarity)):
            mentions = self.vocabularies.mentions(self.graphs_of(int(self.owner[number])))
            kept: dict[str, list] = {}
            for other, similarity in near:
                text = " ".join(self.texts[other].lower().split())
                if len(kept) < wanted and text not in kept and says_more(self.graphs[other], mentions):
                    kept[text] = [*self.place_of(other), round(similarity, 4)]
            yield list(kept.values())

    def _positives(self, numbers: Sequence[int]) -> Iterator[list[str]]:
        texts, wanted = [self.texts[number] for number in numbers], self.counts.positives
        each = -(-wanted // max(len(self.back), 1))
        for text, *by_pivot in zip(texts, *(back(texts, each) for back in self.back)):
            kept = {" ".join(text.lower().split()): text}
            # the best of every pivot comes before the second best of any
            for variant in (some[rank] for rank in range(each) for some in by_pivot if rank < len(some)):
                if may_be_paraphrase(text, variant):
                    kept.setdefault(" ".join(variant.lower().split()), variant)
            yield list(kept.values())[1 : 1 + wanted]


def _best(some: Sequence[Rewrite], scores: np.ndarray, of: int) -> list[Rewrite]:
    """One in `of` of them, by score, in the order they were drawn; none of score -inf."""
    best = np.argsort(-scores, kind="stable")[: -(-len(some) // of)]
    return [some[k] for k in sorted(best) if scores[k] > -np.inf]


def says_more(graph: SceneGraph, mentions: Mentions) -> bool:
    """Whether a caption names an object or action that no caption of an image mentions.

    Without this, "a dog runs on the grass" would be a negative of an image of "a brown dog runs ... green grass".
    """
    return any(mentions.lack(node) for node in (*graph.objects, *filter(is_action, graph.relations)))


def may_be_paraphrase(text: str, variant: str) -> bool:
    """Refuses what translation models return when they fail: nothing, a fragment, or one word over and over."""
    words, others = text.split(), variant.split()
    return bool(others) and 0.5 <= len(others) / max(len(words), 1) <= 2 and len(set(others)) > len(others) / 2


def _entry(rewrite: Rewrite) -> list:
    return [rewrite.level, [[*change.span, change.new, change.kind] for change in rewrite.changes]]


def _summary(sidecar: Sidecar, shard: Path, bad_samples: BadSamples) -> dict[str, Any]:
    """Counts of a whole sidecar; every caption is offered to bad_samples, and bad ones are named."""
    totals = dict.fromkeys(("positives", "sentences", "phrases", "words"), 0)
    for number in range(len(sidecar)):
        record = read_record(sidecar, number)
        levels = Counter(f"{level}s" for level, _ in record["nodes"])
        for name in totals:
            totals[name] += len(record[name]) if name in record else levels[name]
    bad = sidecar.notes
    for number, reason in bad.items():
        key = sidecar.keys[number]
        where, do = f"{shard}, caption {key}", "nothing: it is trained on without such negatives"
        bad_samples.add(DataError(reason, where=where, do=do), key=key, shard=shard)
    bad_samples.offer(len(sidecar))
    bad_samples.use(len(sidecar) - len(bad))
    return {"shard": str(shard), "path": str(sidecar.path), "captions": len(sidecar), **totals, "bad": len(bad)}


def _line(row: dict) -> str:
    captions = max(row["captions"], 1)
    each = ", ".join(f"{row[name] / captions:.1f} {name}" for name in ("positives", "sentences", "phrases", "words"))
    pace = f" ({1000 * row['seconds'] / captions:.1f} s per 1000)" if row["built"] else ""
    bad = f" | {row['bad']} captions without" if row["bad"] else ""
    done = "written" if row["built"] else "unchanged"
    return f"{row['shard']} | {done} | {row['captions']} captions: {each} each{bad} | {row['seconds']:.1f} s{pace}"
