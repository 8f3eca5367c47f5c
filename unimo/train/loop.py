"""The training loop, top to bottom: one for one CPU, one GPU or many processes under torchrun.

    settings -> data -> model -> [ batch -> losses -> update -> log -> sometimes evaluate, save ] -> last checkpoint

What a step reads, hides and drops out is a function of (seed, step), so a checkpoint holds the weights, the
optimizer's moments and a handful of numbers; killed anywhere and resumed, a run of fixed `steps` repeats
itself bit for bit. With `minutes` instead, the learning rate follows the clock (time in the loop, not time
waiting to be resumed).

Pre-training and fine-tuning are this one loop with other jobs (`unimo.train.job`): other data, objectives and
heads. A job with a dev split is evaluated between steps; the best weights then lie in `best`, beside `checkpoints`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unimo import checkpoint, distributed, rng, threads
from unimo.batch import read_back
from unimo.config import to_dict
from unimo.data.workers import batches
from unimo.errors import NumericsError, Restart, UsageError, WeightsError
from unimo.machine import autocast_dtype, keep_freed_memory, matmul_rate
from unimo.machine_faults import located_faults
from unimo.model.attention import compiled
from unimo.model.build import fill
from unimo.model.transformer import Attention, Layer, Transformer
from unimo.train import run_folder
from unimo.train.early_stopping import Validation, answering, forget_later
from unimo.train.job import LoopSettings, Say, TrainingJob
from unimo.train.logging import Meter, Tracker, check_tracker
from unimo.train.optimizer import Optimizers, make_optimizer, moments, put_back, rate_of_step
from unimo.train.step import TrainStep, trained

if TYPE_CHECKING:
    from unimo.train.settings import Run

BAD_STEPS = 3  # in a row, after which a run ends


@dataclass
class State:
    """All that the loop carries from step to step beside tensors.

    step: steps made. elapsed: seconds in the loop. skipped: steps that were not finite.
    """

    step: int = 0
    elapsed: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0


def train(run: Run | TrainingJob, out: str | Path, *, resume: bool = False, say: Say = print) -> Path:
    """Trains as `run` says, in folder `out`; returns the last checkpoint.

    run: settings of a pre-training run, or another job. resume: go on with the run in `out`, which must have the same
    settings and data. say: takes lines of progress. Raises the errors of the data, the folder and the settings;
    ResourceError when the machine gives out; NumericsError after three steps in a row that were not finite; Restart
    when asked to stop by a signal, after saving.
    """
    from unimo.train.parallel import check_devices, gathered, in_whole, parallel, whole

    job = _pretraining(run) if isinstance(run, LoopSettings) else run
    out = Path(out)
    rank, world = distributed.start()
    chief = rank == 0
    say = say if chief else (lambda _: None)
    job.check(world)
    check_tracker(job.settings.log)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dtype = autocast_dtype(job.settings.precision, device)
    keep_freed_memory()
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    with located_faults(), ExitStack() as stack:
        # Data: indexes are built by one process, then read by all.
        with distributed.collective_errors():
            folder = stack.enter_context(_open_folder(out, resume)) if chief else None
            if chief:
                job.open(out, say)
        with distributed.collective_errors():
            if not chief:
                job.open(out, say)
        settings: LoopSettings = job.settings  # what the data decided is part of them: the labels of a task
        stream = job.stream(rank, world)

        # Model and optimizer: as they begin, or as they were.
        check_devices(settings, device)
        torch.manual_seed(rng.number(settings.seed, "initialise"))
        model = job.build().to(device)
        set_up(model, settings, device)
        if not resume:
            job.start(model, say)
        with distributed.collective_errors():
            if folder is not None and resume:
                folder.resume(settings, job.fingerprints, may_change=job.may_change)
            elif folder is not None:
                folder.start(settings, job.fingerprints)
        path = _last_checkpoint(out, say) if resume else None
        if resume and path is None:  # stopped before anything was saved: it begins where it began
            job.start(model, say)
        step: TrainStep = (job.train_step or TrainStep)(model, job.active)  # type: ignore[assignment]
        train_step = parallel(step, settings)
        optimizer = make_optimizer(model, settings.optimizer)
        ema = {name: p.detach().clone() for name, p in model.named_parameters()} if settings.ema_decay else {}
        state, saved, stopping = State(), dict[str, Any](), job.early_stopping
        if path is not None:
            state, saved = restore(path, model, optimizer, ema)
            job.facts |= {"started": saved["started"]} if "started" in saved else {}
            say(f"resumed from step {state.step} ({path})")
        if stopping is not None:
            stopping.from_state(saved.get("scores", []))
            if chief:
                forget_later(out / "best", state.step)

        # The folder's writers, and what is shown.
        log = tracker = None
        with distributed.collective_errors():
            if folder is not None:
                log = stack.enter_context(closing(run_folder.JsonlLog(folder.log_path)))
                log.truncate_after(state.step - 1)
                tracker = stack.enter_context(closing(Tracker(settings.log, out, state.step, to_dict(settings))))
        names = [name for objective in job.active.values() for name in objective.parts]
        meter = stack.enter_context(closing(Meter(matmul_rate(device, dtype), say, names)))
        size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
        used = f"{device.type} x {world}, {str(dtype).removeprefix('torch.')}"
        say(f"{job.headline} | {size} | {used}, {threads.describe(torch.get_num_threads())}")

        def facts() -> dict[str, Any]:
            known = {"settings": to_dict(settings), "data": job.fingerprints, "ema": bool(ema)}
            return asdict(state) | ({"scores": stopping.to_state()} if stopping is not None else {}) | known | job.facts

        def save() -> Path | None:
            with distributed.collective_errors():
                groups = whole(tensors(model, optimizer, ema), keep=chief)
                if log is None:
                    return None
                log.sync()
                return checkpoint.save(out / "checkpoints", state.step, groups, facts(), keep=settings.keep)

        def evaluate() -> dict[str, float]:
            """The model's score and loss on the dev split, for the log; the best weights so far are kept apart."""
            assert stopping is not None
            with answering(model, ema), gathered(train_step):
                found = Validation(*stopping.evaluate(model))
            score, dev_loss = distributed.mean(found.score, found.loss)
            best = stopping.add(state.step, score, dev_loss, _schedule(job, state))
            with distributed.collective_errors():
                weights = {"ema": ema} if ema else {"model": dict[str, Tensor](model.named_parameters())}
                weights = whole(weights, keep=chief) if best else {}
                if best and chief:
                    checkpoint.save(out / "best", state.step, weights, facts())
            return {"dev": score, "dev_loss": dev_loss, **found.metrics}

        # Steps.
        model.train()
        stop = stack.enter_context(run_folder.StopFlag())
        stopped = False
        saved_step, saved_at, before = state.step if path else None, state.elapsed, state.elapsed
        started = time.monotonic()
        made = stack.enter_context(closing(batches(stream, state.step, job.steps, settings.workers, stop.__bool__)))
        for batch in made:
            if _progress(job, state) >= 1:
                break
            lr = rate_of_step(settings.optimizer, _progress(job, state), _step_fraction(job, state))
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("scale", 1.0)
            torch.manual_seed(rng.number(settings.seed, "dropout", state.step, rank))
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, report, cost = train_step(batch.to(device))
            loss.backward()
            for parameter in trained(model, job.active) if world == 1 else ():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            norm = in_whole(nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip))
            *values, norm = read_back(torch.cat([report, norm.to(report)[None]])).tolist()
            losses = step.losses(values)
            record = {"step": state.step, **losses, "norm": norm, "lr": lr}
            if math.isfinite(losses["loss"]) and math.isfinite(norm):
                optimizer.step()
                state.skipped_in_a_row = 0
                _average(model, ema, settings.ema_decay, state.step)
            else:  # the update is dropped, the order of the data is not: the next step is the next step
                state.skipped += 1
                state.skipped_in_a_row += 1
                record["skipped"] = _named(distributed.everyone(batch.keys))
                found = f"loss {losses['loss']}, gradient norm {norm}"
                say(f"step {state.step} skipped: {found}; its samples are named in log.jsonl")
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            # The clock and a signal must mean the same on every rank.
            state.elapsed, stops = distributed.mean(before + time.monotonic() - started, bool(stop))
            record["seconds"] = round(state.elapsed, 3)
            evaluated = stopping is not None and stopping.is_due(state.step, _progress(job, state))
            if evaluated:
                record |= evaluate()
            if log is not None and tracker is not None:
                log.write(**record)
                tracker.plot(record)
            meter.show(record, batch, cost, _progress(job, state), state.elapsed)
            if state.skipped_in_a_row == BAD_STEPS:
                raise NumericsError(
                    "three steps in a row were not finite",
                    where=f"steps {state.step - BAD_STEPS} to {state.step - 1} of {out / 'log.jsonl'}",
                    got=found,
                    do=f"look at the samples, or start anew with a lower optimizer.lr; last good checkpoint: {path}",
                )
            stopped = stops > 0 and _progress(job, state) < 1
            if stopped or evaluated or _save_is_due(settings, state, saved_at):
                path, saved_step, saved_at = save(), state.step, state.elapsed
            if stopped:
                break
        if stop and world == 1 and _progress(job, state) < 1:
            stopped = True  # also while it waited for a batch that did not come
        if saved_step != state.step:
            path = save()
        if stopped:
            got = f"signal {stop.received or 'of another process'}"
            do = "start the same command with --resume to go on"
            raise Restart(f"stopped after step {state.step - 1}, saved", where=out, got=got, do=do)
        return path or _last_checkpoint(out, say) or out  # other ranks look up what the first has saved


# ---- its parts ---------------------------------------------------------------------------------------------


def tensors(model: nn.Module, optimizer: Optimizers, ema: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Everything a step changes that is a tensor, in the groups of a checkpoint; `restore` is its inverse."""
    groups = {"model": dict[str, Tensor](model.named_parameters()), "optimizer": moments(model, optimizer)}
    return groups | ({"ema": ema} if ema else {})


def restore(
    path: Path, model: nn.Module, optimizer: Optimizers, ema: dict[str, Tensor]
) -> tuple[State, dict[str, Any]]:
    """Puts a checkpoint's weights, moments and averages in place; returns its state, and all that was saved beside."""
    from unimo.train.parallel import part_of

    saved = checkpoint.load(path)
    own = dict(model.named_parameters())
    weights, kept = saved.tensors["model"], saved.tensors["optimizer"]
    fill(model, {name: part_of(x, own[name]) if name in own else x for name, x in weights.items()}, where=path)
    put_back(model, optimizer, {name: part_of(x, own[name.rpartition(".")[0]]) for name, x in kept.items()})
    for name in ema:
        ema[name].copy_(part_of(saved.tensors["ema"][name], ema[name]))
    return State(**{name: saved.state[name] for name in asdict(State())}), saved.state


def _pretraining(run: Run) -> TrainingJob:
    """Imported here: its stores of regions, rewritten captions and neighbours are none of fine-tuning's."""
    from unimo.train.pretraining import Pretraining

    return Pretraining(run)


def check_folder(out: Path, resume: bool) -> None:
    """UsageError where there is no run to resume."""
    if resume and not (out / "settings.json").is_file():
        raise UsageError(
            "no run to resume",
            where=out,
            expected="a folder in which a run was started (with settings.json)",
            do="leave --resume away to start one, or check the folder's name",
        )


def _open_folder(out: Path, resume: bool) -> run_folder.RunFolder:
    check_folder(out, resume)
    folder = run_folder.RunFolder(out)
    if folder.has_run and not resume:
        folder.close()
        raise UsageError("the output folder already holds a run", where=out, do="add --resume, or choose another --out")
    return folder


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


def set_up(model: nn.Module, settings: LoopSettings, device: torch.device) -> None:
    """How a model's forward and backward pass are carried out; what they say stays the same."""
    parts = list(model.modules())
    if settings.tower_chunk is not None:
        if not hasattr(model, "tower_chunk"):
            what, do = "only the towers of UNIMO-2 are encoded in chunks", "--set tower_chunk=none"
            raise UsageError(what, where="tower_chunk", got=f"{settings.tower_chunk} for UNIMO", do=do)
        model.tower_chunk = settings.tower_chunk  # type: ignore[assignment]
    for part in parts:
        if isinstance(part, Transformer):
            part.checkpointing = settings.activation_checkpointing
        elif settings.torch_compile and isinstance(part, Layer):  # one graph for all layers of one form
            part.after = MethodType(compiled(Layer.after), part)  # type: ignore[method-assign]
    dropped = any(isinstance(part, Attention) and getattr(part, "dropout", 0) for part in parts)
    if device.type == "cuda" and not dropped:  # FlexAttention has no dropout
        model.attention_form = "flex"  # type: ignore[assignment]


def _progress(job: TrainingJob, state: State) -> float:
    """Fraction of the run that is done; one that stops early is done before its schedule is."""
    if job.early_stopping is not None and job.early_stopping.patience_is_over:
        return 1.0
    return _schedule(job, state)


def _schedule(job: TrainingJob, state: State) -> float:
    """Fraction of the schedule that is done: by steps, or by the clock, but not before the least steps are made."""
    if job.steps:
        return state.step / job.steps
    by_clock = state.elapsed / (60 * (job.settings.minutes or 1))
    return min(by_clock, state.step / job.min_steps) if job.min_steps else by_clock


def _step_fraction(job: TrainingJob, state: State) -> float:
    """Fraction of the schedule that the next step takes; by the clock the mean so far, of the first a thousandth."""
    if job.steps or not state.step:
        return 1 / (job.steps or job.min_steps or 1000)
    return _schedule(job, state) / state.step


def _save_is_due(settings: LoopSettings, state: State, saved_at: float) -> bool:
    if settings.save_steps:
        return state.step % settings.save_steps == 0
    return state.elapsed - saved_at > 60 * settings.save_minutes


def _average(model: nn.Module, ema: dict[str, Tensor], decay: float, step: int) -> None:
    """One step of the moving average, with a short memory at first: early weights are not worth remembering."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, parameter in model.named_parameters() if ema else ():
        ema[name].lerp_(parameter.detach(), 1 - decay)


def _named(keys: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The sample names of all ranks, by stream."""
    return {stream: [name for one in keys for name in one[stream]] for stream in keys[0]}
