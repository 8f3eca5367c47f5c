"""The training loop, top to bottom: one for one CPU, one GPU or many processes under torchrun.

    settings -> data -> model -> [ batch -> step -> losses -> update -> log -> sometimes save ] -> last checkpoint

What a step reads, hides and drops out is a function of (seed, step), so a checkpoint holds the weights, the optimiser's
moments and a handful of numbers; killed anywhere and resumed, a run of fixed `steps` repeats itself bit for bit. With
`minutes` instead, the learning rate follows the clock (time in the loop, not time waiting to be resumed).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unimo import checkpoint, distributed, objectives, runs
from unimo.batch import Batch
from unimo.config import setting, to_dict
from unimo.data import chance
from unimo.data.augment import Views
from unimo.data.ledger import Ledger
from unimo.data.loader import Budgets, Stream, batches
from unimo.data.sources import Corpus, open_corpus
from unimo.errors import DataError, NumericsError, Restart, UsageError
from unimo.machine import autocast_dtype, keep_freed_memory, matmul_rate
from unimo.model.build import ModelSettings, build, fill
from unimo.model.flops import batch_cost
from unimo.model.unimo2 import UNIMO2
from unimo.objectives import (
    CrossModalContrastive,
    GroundedDictionaryLoss,
    ImageContrastive,
    ImageTextMatching,
    MaskedGrounding,
    MaskedLanguageModeling,
    Objective,
    Seq2SeqGeneration,
)
from unimo.tokenizer import Tokenizer

# ---- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    texts: tuple[str, ...] = setting((), "folders, globs or files of texts without pictures")
    images: tuple[str, ...] = setting((), "folders, globs or files of pictures without texts")
    pairs: tuple[str, ...] = setting((), "folders, globs or files of pictures with captions")
    max_bad_share: float = setting(0.01, "share of bad samples beyond which a run stops and says why")
    index_dir: str | None = setting(None, "where shard indexes go when they should not lie beside the shards")
    verify: str = setting("decode", "decode every picture once while indexing, or read only its header")
    cache_gb: float = setting(2.0, "memory for decoded pictures, per loader process")
    pair_views: Views = setting(Views(), "how pictures of pairs are varied")
    image_views: Views = setting(Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2), "how the two views of a picture differ")


@dataclass(frozen=True)
class Objectives:
    mlm: MaskedLanguageModeling = setting(MaskedLanguageModeling(), "masked words")
    seq2seq: Seq2SeqGeneration = setting(Seq2SeqGeneration(), "written captions and fragments")
    cmcl: CrossModalContrastive = setting(CrossModalContrastive(), "pictures and captions that find each other")
    itm: ImageTextMatching = setting(ImageTextMatching(), "does the caption belong to the picture")
    image_contrastive: ImageContrastive = setting(ImageContrastive(), "two views of a picture that find each other")
    dictionary: GroundedDictionaryLoss = setting(GroundedDictionaryLoss(), "entries and their voters move together")
    masked_grounding: MaskedGrounding = setting(MaskedGrounding(), "masked grounded tokens")

    def active(self) -> dict[str, Objective]:
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: objective for name, objective in named.items() if objective.weight}


@dataclass(frozen=True)
class Optimiser:
    rate: float = setting(5e-5, "peak learning rate")
    warmup: float = setting(0.06, "share of the run over which the rate rises from 0")
    final: float = setting(0.0, "last learning rate as a share of the peak")
    decay: str = setting("linear", "how the rate falls: linear or cosine")
    beta1: float = setting(0.9, "Adam's first decay rate")
    beta2: float = setting(0.98, "Adam's second decay rate")
    epsilon: float = setting(1e-6, "Adam's epsilon")
    weight_decay: float = setting(0.01, "decoupled decay of weight matrices; LayerNorms, biases and scalars have none")
    clip: float = setting(1.0, "largest global gradient norm")


@dataclass(frozen=True)
class Run:
    """Everything a run is made of; saved with it as settings.json and accepted back as a recipe."""

    model: ModelSettings = setting(ModelSettings(), "the model")
    data: Data = setting(Data(), "where the data is and how it is read")
    batch: Budgets = setting(Budgets(), "what one step holds")
    objectives: Objectives = setting(Objectives(), "what is asked, and how much it counts")
    optimiser: Optimiser = setting(Optimiser(), "how the weights move")
    steps: int | None = setting(None, "length of the run in steps (exactly resumable)")
    minutes: float | None = setting(None, "length of the run in minutes; used when steps is none")
    seed: int = setting(0, "all chance of the run")
    precision: str = setting("auto", "auto, bf16 or fp32")
    workers: int = setting(1, "loader processes; 0 loads in the training process")
    save_steps: int | None = setting(None, "steps between checkpoints")
    save_minutes: float = setting(10.0, "minutes between checkpoints when save_steps is none")
    keep: int = setting(2, "checkpoints kept")
    average: float = setting(0.0, "decay of a running average of the weights, used for answering; 0 keeps none")
    recompute: bool = setting(False, "recompute activations in the backward pass to save memory")
    tensorboard: bool = setting(True, "write TensorBoard curves when the package is installed")


MAY_CHANGE = ("workers", "save_*", "keep", "minutes", "tensorboard", "data.cache_gb", "data.index_dir", "data.verify")


# ---- the loop ---------------------------------------------------------------------------------------------------------


def train(run: Run, out: str | Path, *, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Trains as `run` says, in folder `out`; returns the last checkpoint.

    resume: go on with the run in `out`, which must have the same settings and data. Raises the errors of the data, the
    folder and the settings; NumericsError after three non-finite steps in a row; Restart when asked to stop.
    """
    out = Path(out)
    rank, world = distributed.start()
    chief = rank == 0
    say = say if chief else (lambda _: None)
    _check(run)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = autocast_dtype(run.precision, device)
    keep_freed_memory()
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(runs.RunFolder(out)) if chief else None
        if folder is not None and folder.has_run and not resume:
            raise UsageError("the output folder already holds a run", where=out, do="add --resume, or choose another --out")
        stop = stack.enter_context(runs.StopFlag())

        # Data: indexes are built by one process, then read by all.
        active = run.objectives.active()
        corpora = open_corpora(run, out, say) if chief else {}
        distributed.barrier()
        corpora = corpora or open_corpora(run, out, say)
        _check_sizes(run, corpora)
        fingerprints = {kind: corpus.fingerprint for kind, corpus in corpora.items()}

        # Model and optimiser.
        torch.manual_seed(chance.number(run.seed, "initialise"))
        model = build(run.model).to(device)
        for tower in (model.image_encoder, model.text_encoder, model.grounded_encoder):
            tower.checkpointing = run.recompute
        if device.type == "cuda":
            model.attention_form = "flex"
        optimiser = make_optimiser(model, run.optimiser)
        averaged = {name: p.detach().clone() for name, p in model.named_parameters()} if run.average else {}
        state = {"step": 0, "elapsed": 0.0, "skipped": 0}
        if folder is not None and folder.has_run:
            folder.resume(run, fingerprints, may_change=MAY_CHANGE)
        elif folder is not None:
            folder.start(run, fingerprints)
        distributed.barrier()
        last = checkpoint.latest(out / "checkpoints", report=say) if resume else None
        if last is not None:
            state = restore(last, model, optimiser, averaged)
            say(f"resumed from step {state['step']} ({last})")

        learner: nn.Module = Learner(model, active)
        if world > 1:
            learner = nn.parallel.DistributedDataParallel(learner, find_unused_parameters=True)
        log = stack.enter_context(contextlib.closing(runs.JsonlLog(folder.log_path))) if folder is not None else None
        if log is not None:
            log.truncate_after(state["step"] - 1)
        board = _tensorboard(run, out, state["step"]) if chief else None
        stream = Stream(
            corpora,
            run.batch,
            list(active.values()),
            size=run.model.image_size,
            tokenizer=Tokenizer.default(),
            seed=run.seed,
            pair_views=run.data.pair_views,
            image_views=run.data.image_views,
            rank=rank,
            world=world,
            cache_bytes=int(run.data.cache_gb * 2**30),
        )
        meter = Meter(matmul_rate(device, dtype), say)
        say(_headline(run, corpora, model, dtype, device, world))

        def save() -> Path | None:
            if not chief:
                return None
            if log is not None:
                log.sync()
            groups = {"model": dict(model.named_parameters()), "optimiser": moments(model, optimiser)}
            if averaged:
                groups["average"] = averaged
            facts = {**state, "settings": to_dict(run), "data": fingerprints, "averaged": bool(averaged)}
            return checkpoint.save(out / "checkpoints", state["step"], groups, facts, keep=run.keep)

        # Steps.
        model.train()
        started, saved_at, in_a_row, path = time.monotonic(), time.monotonic(), 0, None
        before = state["elapsed"]
        for batch in batches(stream, state["step"], run.steps, run.workers):
            progress = state["step"] / run.steps if run.steps else state["elapsed"] / (60 * run.minutes)
            if distributed.agree(progress >= 1 or bool(stop)):
                break
            rate = learning_rate(run.optimiser, progress)
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(chance.number(run.seed, "dropout", state["step"], rank))
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, parts, cost = learner(batch.to(device))
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), run.optimiser.clip)
            record = {"step": state["step"], "loss": loss.item(), **parts, "norm": norm.item(), "rate": rate}
            if math.isfinite(record["loss"]) and math.isfinite(record["norm"]):
                optimiser.step()
                in_a_row = 0
                for name, parameter in model.named_parameters() if averaged else ():
                    averaged[name].lerp_(parameter.detach(), 1 - _averaging(run.average, state["step"]))
            else:  # the update is dropped, the order of the data is not: the next step is the next step
                in_a_row += 1
                state["skipped"] += 1
                record["skipped"] = batch.keys
                say(f"step {state['step']} skipped: loss {record['loss']}, gradient norm {record['norm']}; its samples are in the log")
            optimiser.zero_grad(set_to_none=True)
            state["step"] += 1
            state["elapsed"] = before + time.monotonic() - started
            record["seconds"] = round(state["elapsed"], 3)
            if log is not None:
                log.write(**record)
            _plot(board, record)
            meter.show(record, batch, cost, _share(run, state), state["elapsed"], run)
            if in_a_row == 3:
                raise NumericsError(
                    "three steps in a row were not finite",
                    where=f"steps {state['step'] - 3} to {state['step'] - 1}",
                    got=f"loss {record['loss']}, gradient norm {record['norm']}",
                    do=f"resume from {checkpoint.latest(out / 'checkpoints', report=say)} with a lower optimiser.rate",
                )
            due = state["step"] % run.save_steps == 0 if run.save_steps else (
                time.monotonic() - saved_at > 60 * run.save_minutes
            )
            if distributed.agree(due):
                path, saved_at = save(), time.monotonic()
        meter.finish()
        path = save() if path is None or path.name != checkpoint_name(state["step"]) else path
        distributed.barrier()
        if stop:
            raise Restart(
                "asked to stop; the run is saved",
                where=out,
                got=f"signal {stop.received} after step {state['step'] - 1}",
                do="start the same command with --resume to go on",
            )
        return path or out / "checkpoints" / checkpoint_name(state["step"])


class Learner(nn.Module):
    """One step of all objectives as a module, so that DistributedDataParallel sees its forward.

    forward: Batch -> (loss to differentiate, {name: mean over all ranks}, forward operations of this rank).
    """

    def __init__(self, model: UNIMO2, active: dict[str, Objective]):
        super().__init__()
        self.model, self.active = model, active

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float], float]:
        parts, requests = objectives.step(self.model, batch, self.active)
        if not parts:
            raise UsageError("no objective had anything to ask", expected="a stream for at least one objective")
        names = sorted(parts)
        device = batch.texts.ids.device
        counts = torch.stack([torch.as_tensor(parts[n].count, dtype=torch.float32, device=device) for n in names])
        totals = torch.stack([parts[n].total.float() for n in names])
        counts = distributed.total(counts).clamp_min(1)
        means = (distributed.total(totals) / counts).tolist()
        weights = torch.tensor([parts[n].weight for n in names], device=device)
        # DistributedDataParallel averages gradients over ranks; the mean we want is sum over ranks / count.
        loss = (weights * totals / counts).sum() * distributed.world()
        return loss, dict(zip(names, means)), batch_cost(self.model, batch, requests)


# ---- its parts --------------------------------------------------------------------------------------------------------


def open_corpora(run: Run, out: Path, say: Callable[[str], None]) -> dict[str, Corpus]:
    """The configured kinds of data, indexed; bad samples go to out/bad_samples.jsonl."""
    ledger = Ledger(out / "bad_samples.jsonl" if distributed.rank() == 0 else None)
    corpora = {}
    wanted = {"texts": run.batch.text_tokens, "images": run.batch.images, "pairs": run.batch.pairs}
    for kind, budget in wanted.items():
        paths = getattr(run.data, kind)
        if not paths or not budget:
            continue
        corpora[kind] = open_corpus(
            kind,
            list(paths),
            tokenizer=Tokenizer.default(),
            ledger=ledger,
            index_dir=run.data.index_dir,
            verify=run.data.verify,
            max_bad_share=run.data.max_bad_share,
        )
    if ledger.quarantined:
        say(f"{ledger.quarantined} of {ledger.offered} samples are bad and left out; see {ledger.path}")
    return corpora


def make_optimiser(model: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, LayerNorms, biases, temperatures and other vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(settings: Optimiser, progress: float) -> float:
    """The rate at `progress` in [0, 1] of the run: up linearly, then down to `final`."""
    if progress < settings.warmup:
        return settings.rate * progress / settings.warmup
    rest = min(1.0, (progress - settings.warmup) / max(1e-9, 1 - settings.warmup))
    fall = 1 - rest if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * rest))
    return settings.rate * (settings.final + (1 - settings.final) * fall)


def moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name; parameters that never had a gradient have none."""
    named = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            named[f"{name}.{key}"] = value
    return named


def restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, averaged: dict[str, Tensor]) -> dict:
    """Puts a checkpoint's weights and moments in place; returns its step, elapsed seconds and skipped steps."""
    saved = checkpoint.load(path)
    fill(model, saved.tensors["model"], where=path)
    for name, parameter in model.named_parameters():
        found = {
            key: saved.tensors["optimiser"][f"{name}.{key}"].to(parameter.device if key != "step" else "cpu")
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}.{key}" in saved.tensors["optimiser"]
        }
        if found:
            found["step"] = found["step"].to(parameter.device)
            optimiser.state[parameter] = found
    for name in averaged:
        averaged[name].copy_(saved.tensors["average"][name])
    return {key: saved.state[key] for key in ("step", "elapsed", "skipped")}


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def _averaging(decay: float, step: int) -> float:
    """A short memory at first: early weights are not worth remembering."""
    return min(decay, (1 + step) / (10 + step))


def _share(run: Run, state: dict) -> float:
    return state["step"] / run.steps if run.steps else state["elapsed"] / (60 * run.minutes)


def _check(run: Run) -> None:
    """Settings that contradict each other, before anything is opened."""
    if (run.steps is None) == (run.minutes is None) or (run.steps or run.minutes or 0) <= 0:
        raise UsageError(
            "how long should the run be?",
            where="steps, minutes",
            got=f"steps={run.steps}, minutes={run.minutes}",
            expected="exactly one of them, above 0",
            do="--minutes 5, or --set steps=1000",
        )
    if not (run.data.texts or run.data.images or run.data.pairs):
        raise UsageError("no data", where="data.texts, data.images, data.pairs", expected="at least one folder", do="--pairs FOLDER --images FOLDER --texts FOLDER")
    if run.batch.caption_length > run.model.positions - 2 or run.batch.passage_length > run.model.positions - 2:
        raise UsageError(
            "texts are longer than the position table",
            where="batch.caption_length, batch.passage_length",
            got=f"{run.batch.caption_length}, {run.batch.passage_length}",
            expected=f"at most {run.model.positions - 2}",
        )


def _check_sizes(run: Run, corpora: dict[str, Corpus]) -> None:
    """A step never reads a sample twice: fewer samples than a step needs are refused, not waited for."""
    for kind in ("pairs", "images"):
        if kind in corpora and len(corpora[kind]) < getattr(run.batch, kind):
            raise DataError(
                f"fewer {kind} than one step reads",
                where=", ".join(map(str, getattr(run.data, kind))),
                got=len(corpora[kind]),
                expected=f"at least batch.{kind} = {getattr(run.batch, kind)}",
                do=f"--set batch.{kind}={len(corpora[kind])} (or less), or add data",
            )


def _headline(run, corpora, model, dtype, device, world) -> str:
    data = ", ".join(f"{len(corpus):,} {kind}" for kind, corpus in corpora.items())
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f"{data} | {millions:.1f} M parameters | {device.type} x {world}, {str(dtype).removeprefix('torch.')}"


def _tensorboard(run: Run, out: Path, step: int):
    if not run.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)


def _plot(board, record: dict) -> None:
    if board is not None and record["step"] % 10 == 0:
        for name, value in record.items():
            if isinstance(value, float):
                board.add_scalar(name, value, record["step"])


class Meter:
    """Live progress: losses, pairs/s, tokens/s, share of the measured matrix-product rate, time left."""

    def __init__(self, peak: float, say: Callable[[str], None]):
        self.peak, self.say = peak, say
        self.terminal = sys.stdout.isatty()
        self.every = 1.0 if self.terminal else 15.0
        self.began = self.shown = time.monotonic()
        self.pairs = self.tokens = self.cost = self.steps = 0.0

    def show(self, record: dict, batch: Batch, cost: float, share: float, elapsed: float, run: Run) -> None:
        self.steps += 1
        self.pairs += len(batch.keys["pairs"]) * distributed.world()
        self.tokens += len(batch.texts.ids) * distributed.world()
        self.cost += 3 * cost
        now = time.monotonic()
        if now - self.shown < self.every and share < 1:
            return
        seconds = now - self.began
        left = elapsed * (1 - share) / share if share > 0 else float("nan")
        losses = " ".join(
            f"{name} {value:.3f}" for name, value in record.items() if name in _SHOWN and isinstance(value, float)
        )
        line = (
            f"step {record['step']:>6} {min(share, 1):4.0%} | loss {record['loss']:.3f} | {losses} | "
            f"{self.pairs / seconds:.0f} pairs/s {self.tokens / seconds:,.0f} tokens/s | "
            f"{self.cost / seconds / self.peak:.0%} of matmul | {max(left, 0) / 60:.1f} min left"
        )
        if self.terminal:
            print("\r\x1b[K" + line[:200], end="", flush=True)
        else:
            self.say(line)
        self.shown = now
        if now - self.began > 60:  # rates of the last minute, not of the whole run
            self.began, self.pairs, self.tokens, self.cost = now, 0.0, 0.0, 0.0

    def finish(self) -> None:
        if self.terminal and self.steps:
            print(flush=True)


_SHOWN = ("mlm.pairs", "mlm.texts", "seq2seq.pairs", "cmcl", "itm", "image_contrastive")
