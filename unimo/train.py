"""The training loop, top to bottom: one for one CPU, one GPU or many processes under torchrun.

    settings -> data -> model -> [ batch -> losses -> update -> log -> sometimes save ] -> last checkpoint

What a step reads, hides and drops out is a function of (seed, step), so a checkpoint holds the weights, the
optimiser's moments and a handful of numbers; killed anywhere and resumed, a run of fixed `steps` repeats
itself bit for bit. With `minutes` instead, the learning rate follows the clock (time in the loop, not time
waiting to be resumed).
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unimo import checkpoint, distributed, objectives, runs
from unimo.batch import Batch
from unimo.config import setting, to_dict
from unimo.data import chance
from unimo.data.augment import Views
from unimo.data.beside import Prepared
from unimo.data.ledger import Ledger
from unimo.data.loader import Budgets, Stream, batches
from unimo.data.neighbours import Neighbours
from unimo.data.region_store import RegionStore
from unimo.data.rewrites import Rewrites
from unimo.data.sources import Corpus, Kind, open_corpus
from unimo.errors import DataError, NumericsError, Restart, UsageError, WeightsError
from unimo.machine import autocast_dtype, keep_freed_memory, located_faults, matmul_rate
from unimo.model.build import ModelSettings, build, fill
from unimo.model.flops import batch_cost
from unimo.model.loading import start_from
from unimo.model.transformer import Transformer
from unimo.model.unified import Unified
from unimo.objectives import (
    CrossModalContrastive,
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedGrounding,
    MaskedLanguageModeling,
    MaskedRegionModeling,
    Objective,
    Part,
    RewritingContrastive,
    Seq2SeqGeneration,
)
from unimo.optimiser import Optimiser, Optimisers, learning_rate, make_optimiser, moments, put_back
from unimo.tokenizer import Tokenizer

# ---- settings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    texts: tuple[str, ...] = setting((), "folders, globs or files of texts without pictures")
    images: tuple[str, ...] = setting((), "folders, globs or files of pictures without texts")
    pairs: tuple[str, ...] = setting((), "folders, globs or files of pictures with captions")
    regions: tuple[str, ...] = setting((), "detected regions (unimo prepare regions), if not beside the shards (UNIMO)")
    rewrites: str | None = setting(
        None, "folder of rewritten captions (unimo prepare rewrites); beside: beside the shards"
    )
    neighbours: str | None = setting(None, "folder of related pictures and sentences (unimo prepare neighbours)")
    max_bad_share: float = setting(0.01, "share of bad samples beyond which a run stops and says why")
    index_dir: str | None = setting(None, "where shard indexes go when they should not lie beside the shards")
    verify: Literal["decode", "header"] = setting(
        "decode", "decode every picture once while indexing, or read only its header"
    )
    cache_gb: float = setting(2.0, "memory for decoded pictures, per loader process")
    pair_views: Views = setting(Views(), "how pictures of pairs are varied")
    image_views: Views = setting(
        Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2), "how the two views of a picture differ"
    )


@dataclass(frozen=True)
class Objectives:
    mlm: MaskedLanguageModeling = setting(MaskedLanguageModeling(), "masked words")
    seq2seq: Seq2SeqGeneration = setting(Seq2SeqGeneration(), "written captions and fragments")
    cmcl: CrossModalContrastive = setting(CrossModalContrastive(), "pictures and captions that find each other")
    itm: ImageTextMatching = setting(ImageTextMatching(), "does the caption belong to the picture")
    image_contrastive: ImageContrastive = setting(ImageContrastive(), "two views of a picture that find each other")
    dictionary: GroundedDictionaryLoss = setting(GroundedDictionaryLoss(), "entries and their voters move together")
    masked_grounding: MaskedGrounding = setting(MaskedGrounding(), "masked grounded tokens")
    mrm: MaskedRegionModeling = setting(MaskedRegionModeling(weight=0.0), "masked regions (UNIMO)")
    rewriting: RewritingContrastive = setting(RewritingContrastive(weight=0.0), "captions and their rewritings (UNIMO)")

    def active(self) -> dict[str, Objective]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: objective for name, objective in named.items() if objective.weight}


@dataclass(frozen=True)
class Run:
    """Everything a run is made of; saved with it as settings.json and accepted back as a recipe."""

    model: ModelSettings = setting(ModelSettings(), "the model")
    start: str | None = setting(None, "weights to start from: a run, a saved folder, or a name on the hub")
    data: Data = setting(Data(), "where the data is and how it is read")
    batch: Budgets = setting(Budgets(), "what one step holds")
    objectives: Objectives = setting(Objectives(), "what is asked, and how much it counts")
    optimiser: Optimiser = setting(Optimiser(), "how the weights move")
    steps: int | None = setting(None, "length of the run in steps (exactly resumable)")
    minutes: float | None = setting(None, "length of the run in minutes; used when steps is none")
    seed: int = setting(0, "all chance of the run")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto, bf16 or fp32")
    workers: int = setting(1, "loader processes; 0 loads in the training process")
    save_steps: int | None = setting(None, "steps between checkpoints")
    save_minutes: float = setting(10.0, "minutes between checkpoints when save_steps is none")
    keep: int = setting(2, "checkpoints kept")
    average: float = setting(0.0, "decay of a running average of the weights, used for answering; 0 keeps none")
    only_known_words: bool = setting(
        False, "predict only words the training texts hold: the same softmax over fewer columns"
    )
    recompute: bool = setting(False, "recompute activations in the backward pass to save memory")
    tensorboard: bool = setting(True, "write TensorBoard curves when the package is installed")


# Objectives that only one member can be asked.
ONLY_UNIMO2 = {"cmcl", "image_contrastive", "dictionary", "masked_grounding"}
ONLY_UNIMO = {"mrm"}

MAY_CHANGE = (
    "workers",
    "save_*",
    "keep",
    "minutes",
    "tensorboard",
    "data.cache_gb",
    "data.index_dir",
    "data.verify",
)


# ---- the loop ----------------------------------------------------------------------------------------------


def train(run: Run, out: str | Path, *, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Trains as `run` says, in folder `out`; returns the last checkpoint.

    resume: go on with the run in `out`, which must have the same settings and data. say: takes lines of
    progress. Raises the errors of the data, the folder and the settings; ResourceError when the machine gives
    out; NumericsError after three steps in a row that were not finite; Restart when asked to stop by a
    signal, after saving.
    """
    out = Path(out)
    rank, world = distributed.start()
    chief = rank == 0
    say = say if chief else (lambda _: None)
    _check(run, world)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = autocast_dtype(run.precision, device)
    keep_freed_memory()
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    with located_faults(), contextlib.ExitStack() as stack:
        # Data: indexes are built by one process, then read by all.
        with distributed.together():
            folder = stack.enter_context(_open_folder(out, resume)) if chief else None
            corpora = open_corpora(run, out, say) if chief else {}
        with distributed.together():
            corpora = corpora or open_corpora(run, out, say)
            _check_sizes(run, corpora)
        fingerprints = {kind: corpus.fingerprint for kind, corpus in corpora.items()}
        regions = open_regions(run, corpora) if run.model.member == "unimo" else {}
        fingerprints |= {f"regions of {kind}": store.fingerprint for kind, store in regions.items()}
        active = run.objectives.active()
        stream = Stream(
            corpora,
            _shared_out(run.batch, active),
            list(active.values()),
            size=run.model.pixels or run.model.image_size,
            tokenizer=Tokenizer.default(),
            seed=run.seed,
            pair_views=run.data.pair_views,
            image_views=run.data.image_views,
            rank=rank,
            world=world,
            cache_bytes=int(run.data.cache_gb * 2**30),
            regions=regions,
            prepared=open_prepared(run, corpora, regions),
        )

        # Model and optimiser: as they begin, or as they were.
        torch.manual_seed(chance.number(run.seed, "initialise"))
        model = build(run.model).to(device)
        known_words = _known_words(corpora) if run.only_known_words else None
        if known_words is not None:
            model.know_words(torch.from_numpy(known_words))
        for part in model.modules():
            if isinstance(part, Transformer):
                part.checkpointing = run.recompute
        if run.start is not None and not resume:
            account = start_from(model, run.start)
            say(f"{len(account.loaded)} tensors from {run.start}, {len(account.missing)} as initialised")
        if device.type == "cuda" and not run.model.attention_dropout:  # FlexAttention has none
            model.attention_form = "flex"
        optimiser = make_optimiser(model, run.optimiser)
        averaged = {name: p.detach().clone() for name, p in model.named_parameters()} if run.average else {}
        state: dict[str, Any] = {"step": 0, "elapsed": 0.0, "skipped": 0, "skipped_in_a_row": 0}
        with distributed.together():
            if folder is not None and resume:
                folder.resume(run, fingerprints, may_change=MAY_CHANGE)
            elif folder is not None:
                folder.start(run, fingerprints)
        path = _last_checkpoint(out, say) if resume else None
        if path is not None:
            state |= restore(path, model, optimiser, averaged)
            say(f"resumed from step {state['step']} ({path})")
        saved_step, saved_at, before = state["step"] if path else None, state["elapsed"], state["elapsed"]

        # The folder's writers, and what is shown.
        log = board = None
        with distributed.together():
            if folder is not None:
                log = stack.enter_context(contextlib.closing(runs.JsonlLog(folder.log_path)))
                log.truncate_after(state["step"] - 1)
                board = stack.enter_context(contextlib.closing(Board(run.tensorboard, out, state["step"])))
        meter = stack.enter_context(contextlib.closing(Meter(matmul_rate(device, dtype), say)))
        say(_headline(corpora, model, dtype, device, world))

        def save() -> Path | None:
            with distributed.together():
                if log is None:
                    return None
                log.sync()
                facts = {**state, "settings": to_dict(run), "data": fingerprints, "averaged": bool(averaged)}
                if known_words is not None:
                    facts["known_words"] = known_words.tolist()
                groups = tensors(model, optimiser, averaged)
                return checkpoint.save(out / "checkpoints", state["step"], groups, facts, keep=run.keep)

        # Steps.
        learner: nn.Module = Learner(model, active)
        if world > 1:
            learner = nn.parallel.DistributedDataParallel(learner, find_unused_parameters=True)
        model.train()
        stop = stack.enter_context(runs.StopFlag())
        asked = False
        started = time.monotonic()
        made = stack.enter_context(contextlib.closing(batches(stream, state["step"], run.steps, run.workers)))
        for batch in made:
            if _progress(run, state) >= 1:
                break
            rate = learning_rate(run.optimiser, _progress(run, state))
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(chance.number(run.seed, "dropout", state["step"], rank))
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, losses, cost = learner(batch.to(device))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), run.optimiser.clip).item()
            record = {"step": state["step"], **losses, "norm": norm, "rate": rate}
            if math.isfinite(losses["loss"]) and math.isfinite(norm):
                optimiser.step()
                state["skipped_in_a_row"] = 0
                decay = _averaging(run.average, state["step"])
                for name, parameter in model.named_parameters() if averaged else ():
                    averaged[name].lerp_(parameter.detach(), 1 - decay)
            else:  # the update is dropped, the order of the data is not: the next step is the next step
                state["skipped"] += 1
                state["skipped_in_a_row"] += 1
                record["skipped"] = _named(distributed.everyone(batch.keys))
                say(
                    f"step {state['step']} skipped: loss {losses['loss']}, gradient norm {norm}; "
                    "its samples are named in log.jsonl"
                )
            optimiser.zero_grad(set_to_none=True)
            state["step"] += 1
            # The clock and a signal must mean the same on every rank.
            state["elapsed"], stops = distributed.mean(before + time.monotonic() - started, bool(stop))
            record["seconds"] = round(state["elapsed"], 3)
            if log is not None:
                log.write(**record)
            if board is not None:
                board.plot(record)
            meter.show(record, batch, cost, _progress(run, state), state["elapsed"])
            if state["skipped_in_a_row"] == 3:
                raise NumericsError(
                    "three steps in a row were not finite",
                    where=f"steps {state['step'] - 3} to {state['step'] - 1} of {out / 'log.jsonl'}",
                    got=f"loss {losses['loss']}, gradient norm {norm}",
                    do=f"look at the samples, or start anew with a lower optimiser.rate; last good checkpoint: {path}",
                )
            asked = stops > 0 and _progress(run, state) < 1
            if asked or _save_is_due(run, state, saved_at):
                path, saved_step, saved_at = save(), state["step"], state["elapsed"]
            if asked:
                break
        if saved_step != state["step"]:
            path = save()
        if asked:
            raise Restart(
                "asked to stop; the run is saved",
                where=out,
                got=f"signal {stop.received or 'of another process'} after step {state['step'] - 1}",
                do="start the same command with --resume to go on",
            )
        return path or _last_checkpoint(out, say) or out  # other ranks look up what the first has saved


class Learner(nn.Module):
    """One step of all objectives as a module, so that DistributedDataParallel sees its forward.

    forward: Batch -> (loss to differentiate, {"loss" and every part: mean over all ranks}, forward operations
    of this rank).
    """

    def __init__(self, model: Unified, active: dict[str, Objective]):
        super().__init__()
        self.model, self.active = model, active
        self.names = [name for objective in active.values() for name in objective.parts]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float], float]:
        parts, requests = objectives.step(self.model, batch, self.active)
        # A rank may lack a part that others have (a bin without a text to write): all use the same names.
        absent = Part(torch.zeros((), device=batch.pixels.device), 0, 0.0)
        rows = [parts.get(name, absent) for name in self.names]
        totals = torch.stack([row.total.float() for row in rows])
        weights = totals.new_tensor([row.weight for row in rows])
        counts = torch.stack([torch.as_tensor(row.count, dtype=torch.float32, device=totals.device) for row in rows])
        present = totals.new_tensor([name in parts for name in self.names])
        count, total, weighted, present = distributed.total(torch.stack([counts, totals, weights * totals, present]))
        if not present.any():
            raise UsageError(
                "no objective had anything to ask",
                where="objectives, batch",
                got=f"{', '.join(self.active)} of {', '.join(k for k, v in batch.keys.items() if v)}",
                expected="a stream that an objective reads (dictionary only watches what others fuse)",
                do="give data of another kind, or switch another objective on",
            )
        count = count.clamp_min(1)
        # DistributedDataParallel averages gradients over ranks; the mean we want is sum over ranks / count.
        loss = (weights * totals / count).sum() * distributed.world()
        if not loss.requires_grad:  # nothing was asked here: a zero with a graph, for the others' sake
            loss = loss + 0.0 * self.model.words.word.weight.sum()
        values = torch.cat([(weighted / count).sum()[None], total / count]).tolist()
        means = {name: value for name, value, here in zip(self.names, values[1:], present.tolist()) if here}
        return loss, {"loss": values[0], **means}, batch_cost(self.model, batch, requests)


# ---- its parts ---------------------------------------------------------------------------------------------


def open_corpora(run: Run, out: Path, say: Callable[[str], None]) -> dict[str, Corpus]:
    """The configured kinds of data, indexed; bad samples go to out/bad_samples.jsonl."""
    ledger = Ledger(out / "bad_samples.jsonl" if distributed.rank() == 0 else None)
    corpora: dict[str, Corpus] = {
        kind: open_corpus(
            kind,
            list(getattr(run.data, kind)),
            tokenizer=Tokenizer.default(),
            ledger=ledger,
            index_dir=run.data.index_dir,
            verify=run.data.verify,
            max_bad_share=run.data.max_bad_share,
        )
        for kind in _wanted(run)
    }
    if ledger.quarantined:
        say(f"{ledger.quarantined} of {ledger.offered} samples are bad and left out; see {ledger.path}")
    return corpora


def open_regions(run: Run, corpora: dict[str, Corpus]) -> dict[str, RegionStore]:
    """The regions of every picture that is read. DataError: some are missing; UsageError: they have other sizes."""
    stores: dict[str, RegionStore] = {}
    for kind in ("pairs", "images"):
        if kind not in corpora:
            continue
        stores[kind] = store = RegionStore.open(list(run.data.regions) or None, corpora[kind])
        for name, theirs in (("region_size", store.feature_size), ("region_classes", store.classes)):
            if theirs and theirs != getattr(run.model, name):
                raise UsageError(
                    "regions of another size than the model's",
                    where=f"model.{name}, regions of {kind}",
                    got=theirs,
                    expected=getattr(run.model, name),
                    do=f"--set model.{name}={theirs}",
                )
    return stores


def open_prepared(run: Run, corpora: dict[str, Corpus], regions: dict[str, RegionStore]) -> Prepared | None:
    """Rewritings and neighbours of the pairs, where the run names any."""
    pairs, rewrites, neighbours = corpora.get("pairs"), None, None
    if pairs is None or (run.data.rewrites is None and run.data.neighbours is None):
        return None
    if run.data.rewrites is not None:
        rewrites = Rewrites.open(None if run.data.rewrites == "beside" else run.data.rewrites, pairs)
    if run.data.neighbours is not None:
        neighbours = Neighbours.open(run.data.neighbours, pairs, corpora.get("images"), corpora.get("texts"))
    return Prepared(rewrites, neighbours, regions.get("images"))


def _known_words(corpora: dict[str, Corpus]) -> np.ndarray:
    """(k,) sorted ids of all words of all texts, and of the special tokens that are written."""
    special = [Tokenizer.cls, Tokenizer.sep, Tokenizer.mask]
    return np.unique(np.concatenate([special, *(corpus.vocabulary() for corpus in corpora.values())]))


def tensors(model: nn.Module, optimiser: Optimisers, averaged: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Everything a step changes that is a tensor, in the groups of a checkpoint; `restore` is its inverse."""
    groups: dict[str, dict[str, Tensor]] = {
        "model": dict(model.named_parameters()),
        "optimiser": moments(model, optimiser),
    }
    return groups | ({"average": averaged} if averaged else {})


def restore(path: Path, model: nn.Module, optimiser: Optimisers, averaged: dict[str, Tensor]) -> dict[str, Any]:
    """Puts a checkpoint's weights, moments and averages in place; returns its step, clock and skipped steps."""
    saved = checkpoint.load(path)
    fill(model, saved.tensors["model"], where=path)
    put_back(model, optimiser, saved.tensors["optimiser"])
    for name in averaged:
        averaged[name].copy_(saved.tensors["average"][name])
    counters = ("step", "elapsed", "skipped", "skipped_in_a_row")
    return {name: saved.state[name] for name in counters if name in saved.state}


def _last_checkpoint(out: Path, say: Callable[[str], None]) -> Path | None:
    """The newest good checkpoint; None when nothing was saved yet. A run whose checkpoints are all bad is
    not begun again.
    """
    reasons: list[str] = []
    path = checkpoint.latest(out / "checkpoints", report=reasons.append)
    for reason in reasons:
        say(reason)
    if path is None and reasons:
        raise WeightsError(
            "no usable checkpoint",
            where=out / "checkpoints",
            got="; ".join(reasons),
            expected="at least one whole checkpoint",
            do="restore a copy, or remove the damaged ones to begin again from step 0",
        )
    return path


def _open_folder(out: Path, resume: bool) -> runs.RunFolder:
    if resume and not (out / "settings.json").is_file():
        raise UsageError(
            "no run to resume",
            where=out,
            expected="a folder in which a run was started (with settings.json)",
            do="leave --resume away to start one, or check the folder's name",
        )
    folder = runs.RunFolder(out)
    if folder.has_run and not resume:
        folder.close()
        raise UsageError("the output folder already holds a run", where=out, do="add --resume, or choose another --out")
    return folder


def _progress(run: Run, state: dict[str, Any]) -> float:
    """Share of the run that is done."""
    return state["step"] / run.steps if run.steps else state["elapsed"] / (60 * (run.minutes or 1))


def _save_is_due(run: Run, state: dict[str, Any], saved_at: float) -> bool:
    if run.save_steps:
        return state["step"] % run.save_steps == 0
    return state["elapsed"] - saved_at > 60 * run.save_minutes


def _averaging(decay: float, step: int) -> float:
    """A short memory at first: early weights are not worth remembering."""
    return min(decay, (1 + step) / (10 + step))


def _named(keys: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The sample names of all ranks, by stream."""
    return {stream: [name for one in keys for name in one[stream]] for stream in keys[0]}


def _wanted(run: Run) -> list[Kind]:
    """The kinds of data that are given and have a budget."""
    budgets: dict[Kind, int] = {
        "texts": run.batch.text_tokens,
        "images": run.batch.images,
        "pairs": run.batch.pairs,
    }
    return [kind for kind, budget in budgets.items() if budget and getattr(run.data, kind)]


def _shared_out(budgets: Budgets, active: dict[str, Objective]) -> Budgets:
    """Passages are masked or written; with one of the two objectives off, the other gets them all."""
    if "mlm" in active and "seq2seq" in active:
        return budgets
    return replace(budgets, fragments=float("seq2seq" in active))


def _check(run: Run, world: int) -> None:
    """Settings that contradict each other, before anything is opened."""
    if (run.steps is None) == (run.minutes is None) or (run.steps or run.minutes or 0) <= 0:
        raise UsageError(
            "how long should the run be?",
            where="steps, minutes",
            got=f"steps={run.steps}, minutes={run.minutes}",
            expected="exactly one of them, above 0",
            do="--minutes 5, or --set steps=1000",
        )
    longest = run.model.positions - 2
    for key, value, lowest, highest in (
        ("batch.caption_length", run.batch.caption_length, 3, longest),
        ("batch.passage_length", run.batch.passage_length, 3, longest),
        ("batch.pairs", run.batch.pairs, 0, None),
        ("batch.images", run.batch.images, 0, None),
        ("batch.text_tokens", run.batch.text_tokens, 0, None),
        ("batch.fragments", run.batch.fragments, 0, 1),
        ("batch.shards", run.batch.shards, 1, None),
        ("optimiser.warmup", run.optimiser.warmup, 1e-6 if run.optimiser.decay == "noam" else 0, 1),
        ("average", run.average, 0, 0.999999),
        ("save_steps", run.save_steps or 1, 1, None),
        ("keep", run.keep, 2, None),
        ("model.chosen", run.model.chosen if run.model.dictionary else 1, 1, run.model.dictionary or 1),
        ("workers", run.workers, 0, None),
    ):
        if value < lowest or (highest is not None and value > highest):
            raise UsageError(
                "a setting is out of range",
                where=key,
                got=value,
                expected=f"at least {lowest}" if highest is None else f"{lowest} to {highest}",
                do="raise model.positions for longer texts" if highest == longest and value > longest else None,
            )
    if run.batch.shards % world:
        raise UsageError(
            "the shards of a step cannot be shared equally among the processes",
            where="batch.shards",
            got=run.batch.shards,
            expected=f"a multiple of {world}",
            do=f"--set batch.shards={world}",
        )
    if not _wanted(run):
        raise UsageError(
            "no data",
            where="data.texts, data.images, data.pairs",
            expected="at least one folder, with a budget above 0",
            do="--pairs FOLDER --images FOLDER --texts FOLDER",
        )
    active = run.objectives.active()
    if not active:
        raise UsageError("no objective", where="objectives", expected="at least one weight above 0")
    others = ONLY_UNIMO2 if run.model.member == "unimo" else ONLY_UNIMO
    if foreign := sorted(set(active) & others):
        raise UsageError(
            f"an objective that {run.model.member} does not have",
            where="objectives",
            got=", ".join(foreign),
            expected=", ".join(sorted(set(objectives.OBJECTIVES) - others)),
            do=" ".join(f"--set objectives.{name}.weight=0" for name in foreign),
        )
    if "itm" in active and run.model.member == "unimo" and run.objectives.itm.hard:
        raise UsageError(
            "UNIMO has no embeddings before fusion by which to draw hard negatives",
            where="objectives.itm.hard",
            do="--set objectives.itm.hard=false",
        )
    for name in ("masked_grounding", "image_contrastive"):
        if name in active and not getattr(run.model, name):
            raise UsageError(
                "an objective needs a part of the model that is switched off",
                where=f"objectives.{name}, model.{name}",
                got=f"weight {active[name].weight}, model.{name}=false",
                expected="both on or both off",
                do=f"--set model.{name}=true, or --set objectives.{name}.weight=0",
            )


def _check_sizes(run: Run, corpora: dict[str, Corpus]) -> None:
    """An epoch of less than one step would read samples twice in a step: refused."""
    for kind in ("pairs", "images"):
        if kind in corpora and len(corpora[kind]) < getattr(run.batch, kind):
            raise DataError(
                f"fewer {kind} than one step reads",
                where=", ".join(map(str, getattr(run.data, kind))),
                got=len(corpora[kind]),
                expected=f"at least batch.{kind} = {getattr(run.batch, kind)}",
                do=f"--set batch.{kind}={len(corpora[kind])} (or less), or add data",
            )


def _headline(
    corpora: dict[str, Corpus], model: nn.Module, dtype: torch.dtype, device: torch.device, world: int
) -> str:
    data = ", ".join(f"{len(corpus):,} {kind}" for kind, corpus in corpora.items())
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"{data} | {millions:.1f} M parameters | {device.type} x {world}, {str(dtype).removeprefix('torch.')}"


class Board:
    """TensorBoard curves, when they are wanted and the package is installed."""

    def __init__(self, wanted: bool, out: Path, step: int):
        self.writer = None
        if wanted:
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def plot(self, record: dict[str, Any]) -> None:
        if self.writer is not None and record["step"] % 10 == 0:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Meter:
    """Live progress: losses, pairs/s, tokens/s, share of the measured matrix-product rate, time left."""

    def __init__(self, peak: float, say: Callable[[str], None]):
        self.peak, self.say = peak, say
        self.terminal = sys.stdout.isatty() and distributed.rank() == 0
        self.every = 1.0 if self.terminal else 15.0
        self.began = self.shown = time.monotonic()
        self.pairs = self.tokens = self.cost = 0.0

    def show(self, record: dict[str, Any], batch: Batch, cost: float, share: float, elapsed: float) -> None:
        self.pairs += len(batch.keys["pairs"]) * distributed.world()
        self.tokens += len(batch.texts.ids) * distributed.world()
        self.cost += 3 * cost
        now = time.monotonic()
        if now - self.shown < self.every and share < 1:
            return
        seconds = now - self.began
        left = elapsed * max(0.0, 1 - share) / share
        losses = " ".join(f"{name} {record[name]:.3f}" for name in _SHOWN if name in record)
        line = (
            f"step {record['step']:>6} {min(share, 1):4.0%} | loss {record['loss']:.3f} | {losses} | "
            f"{self.pairs / seconds:.0f} pairs/s {self.tokens / seconds:,.0f} tokens/s | "
            f"{self.cost / seconds / self.peak:.0%} of matmul | {left / 60:.1f} min left"
        )
        if self.terminal:  # one line that is written over
            print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        else:
            self.say(line[:200])
        self.shown = now
        if now - self.began > 60:  # rates of the last minute, not of the whole run
            self.began, self.pairs, self.tokens, self.cost = now, 0.0, 0.0, 0.0

    def close(self) -> None:
        """Leaves the line that is written over."""
        if self.terminal and self.tokens + self.cost:
            print(flush=True)


_SHOWN = ("mlm.pairs", "mlm.texts", "seq2seq.pairs", "cmcl", "itm", "image_contrastive")
