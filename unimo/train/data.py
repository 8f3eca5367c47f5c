"""The data of a pre-training run, opened: corpora, regions, and what was prepared offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unimo import distributed
from unimo.corpus.bad_samples import BadSamples
from unimo.corpus.corpus import Corpus, open_corpus
from unimo.data.held_out import HeldOut
from unimo.data.side_inputs import Prepared
from unimo.errors import DataError, UsageError
from unimo.formats.columns import Fields
from unimo.neighbours.store import Neighbours
from unimo.regions.store import RegionStore
from unimo.rewriting.store import Rewrites
from unimo.tokenizer import Tokenizer
from unimo.train.settings import Run, wanted

NOTHING = np.zeros(0, np.int64)
BUDGETS = {"texts": "text_tokens", "images": "images"}  # kinds of data beside pairs -> the budget of each


def open_corpora(run: Run, out: Path, say: Callable[[str], None]) -> dict[str, Corpus]:
    """The configured kinds of data, indexed; bad samples go to out/bad_samples.jsonl."""
    bad_samples = BadSamples(out / "bad_samples.jsonl" if distributed.rank() == 0 else None)
    fields = Fields.of(run.data.columns)
    corpora: dict[str, Corpus] = {
        kind: open_corpus(
            kind,
            list(getattr(run.data, kind)),
            fields=fields,
            bad_samples=bad_samples,
            index_dir=run.data.index_dir,
            verify=run.data.verify,
            max_bad_fraction=run.data.max_bad_fraction,
        )
        for kind in wanted(run)
    }
    for kind, corpus in corpora.items():
        say(f"{kind}: {len(corpus):,} from {'; '.join(corpus.formats())}")
    if bad_samples.quarantined:
        say(f"{bad_samples.quarantined} of {bad_samples.offered} samples are bad and left out; see {bad_samples.path}")
    for line in bad_samples.notes.lines():
        say(f"data: {line}")
    return corpora


def open_regions(run: Run, corpora: dict[str, Corpus]) -> dict[str, RegionStore]:
    """The regions of every image that is read. DataError: some are missing; UsageError: they have other sizes."""
    stores: dict[str, RegionStore] = {}
    for kind in ("pairs", "images"):
        if kind not in corpora:
            continue
        with _named("data.regions"):
            stores[kind] = store = RegionStore.open(list(run.data.regions) or None, corpora[kind])
        for name, theirs in (("region_size", store.feature_size), ("region_classes", store.classes)):
            ours = getattr(run.model, name)
            if theirs and theirs != ours:
                what, where = "regions of another size than the model's", f"model.{name}, regions of {kind}"
                raise UsageError(what, where=where, got=theirs, expected=ours, do=f"--set model.{name}={theirs}")
    return stores


def held_out(run: Run, corpora: dict[str, Corpus]) -> dict[str, np.ndarray]:
    """kind -> items that are not trained on: the validation split, whether named by the data or chosen here, and every
    image of it that comes again."""
    split = HeldOut(run.data.val_fraction, run.data.val_limit)
    own = {"pairs": run.data.val_pairs, "texts": run.data.val_texts}
    found = {kind: np.flatnonzero(corpus.validation) for kind, corpus in corpora.items()}
    for kind in (kind for kind in own if kind in corpora and not own[kind]):
        found[kind] = np.union1d(found[kind], split.items(corpora[kind]))
    found = {kind: items for kind, items in found.items() if len(items)}
    if "pairs" in found:
        hashes = {kind: corpora[kind].image_sha256 for kind in ("pairs", "images") if kind in corpora}
        shown = {row.tobytes() for row in hashes["pairs"][found["pairs"]]}
        for kind, rows in hashes.items():
            found[kind] = np.array([i for i, row in enumerate(rows) if row.tobytes() in shown], np.int64)
    return found


def validation_lines(run: Run, corpora: dict[str, Corpus], without: dict[str, np.ndarray]) -> Iterator[str]:
    """Lines about what is held out, and about kinds of which there is too little for that."""
    for kind, items in ((kind, items) for kind, items in without.items() if len(items)):
        own = corpora[kind].validation.any()
        why = "the data's own split val is not trained on" if own else "data.val_fraction=0: train on all"
        yield f"{len(items):,} of {len(corpora[kind]):,} {kind} are held out ({why})"
    for kind in ("pairs", "texts") if run.data.val_fraction else ():
        if kind in corpora and kind not in without and not getattr(run.data, f"val_{kind}"):
            yield f"{len(corpora[kind])} {kind} are too few to hold any out: name others with --val-{kind}"


def open_prepared(
    run: Run, corpora: dict[str, Corpus], regions: dict[str, RegionStore], without: dict[str, np.ndarray]
) -> Prepared | None:
    """Rewritings and neighbours of the pairs, where the run names any; without: as of `held_out`."""
    data, pairs, rewrites, neighbours = run.data, corpora.get("pairs"), None, None
    if pairs is None or (data.rewrites is None and data.neighbours is None):
        return None
    if data.rewrites is not None:
        with _named("data.rewrites"):
            rewrites = Rewrites.open(None if data.rewrites == "beside" else data.rewrites, pairs)
    if data.neighbours is not None:
        # A stream that was switched off is as absent as one that was never named.
        off = [f"batch.{BUDGETS[kind]}" for kind in BUDGETS if getattr(data, kind) and kind not in corpora]
        with _named(", ".join(["data.neighbours", *off])):
            neighbours = Neighbours.open(data.neighbours, pairs, corpora.get("images"), corpora.get("texts"))
            neighbours = neighbours.without(without.get("images", NOTHING), without.get("texts", NOTHING))
    return Prepared(rewrites, neighbours, regions.get("images"))


@contextmanager
def _named(settings: str) -> Iterator[None]:
    """Errors of a store name the settings that it comes from."""
    try:
        yield
    except DataError as fault:
        fault.where = f"{settings}; {fault.where}"
        raise


def word_counts(corpora: dict[str, Corpus]) -> np.ndarray:
    """(V,) how often each word is to be predicted in all texts and captions, each of which ends with [SEP]."""
    counts = np.sum([corpus.word_counts(Tokenizer.vocab_size) for corpus in corpora.values()], axis=0)
    counts[Tokenizer.sep] += sum(len(corpus.token_counts) for corpus in corpora.values())
    return counts


def vocabulary_subset(counts: np.ndarray) -> np.ndarray:
    """(k,) sorted ids of all words that occur, and of the special tokens that are written."""
    return np.union1d([Tokenizer.cls, Tokenizer.sep, Tokenizer.mask], np.flatnonzero(counts))


def log_unigrams(counts: np.ndarray) -> np.ndarray:
    """(V,) float32 log frequency of each word, one occurrence added to every word's."""
    return np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)


def check_sizes(run: Run, corpora: dict[str, Corpus], without: dict[str, np.ndarray]) -> None:
    """An epoch of less than one step would read samples twice in a step: refused."""
    for kind in ("pairs", "images"):
        left_out, budget = len(without.get(kind, ())), getattr(run.batch, kind)
        size = len(corpora.get(kind, ())) - left_out
        if kind in corpora and size < budget:
            raise DataError(
                f"fewer {kind} than one step reads",
                where=f"batch.{kind}; {', '.join(map(str, getattr(run.data, kind)))}",
                got=f"{size}, and {left_out} held out for validation" if left_out else size,
                expected=f"at least batch.{kind} = {budget}",
                do=f"--set batch.{kind}={size} (or less), or add data",
            )
