"""What a recipe needs before it is started: memory of each GPU, communication, speed, days and cost (`unimo plan`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from unimo.errors import ResourceError, UsageError
from unimo.model.build import layers_of, rough_parameters
from unimo.model.flops import REGIONS
from unimo.train.dry_run import CAPTION, Needs, dry_run
from unimo.train.settings import Run

GIB = 2**30
USABLE = 0.92  # of a GPU's memory; the rest is its driver's, and fragments
GPUS = (8, 64, 1024)
# V100s and days of the paper's pre-training (spec unimo §12); 125 TFLOP/s each, of which training of that time made
# some 15 % (UniLM 13 %, BEiT 12.5 %: published steps an hour). Of UNIMO-2 neither is published.
PUBLISHED = {("unimo", "base"): (32, 7), ("unimo", "large"): (64, 10)}
V100 = 0.15 * 125e12


@dataclass(frozen=True)
class Machine:
    """gpus: of the run. memory: of each, in bytes. rate: FLOP/s of its matrix products; utilisation: the fraction of it
    that training makes. bandwidth: bytes/s between GPUs. price: of one for an hour."""

    gpus: int = 8
    memory: float = 80 * GIB
    rate: float = 790e12
    utilisation: float = 0.4
    bandwidth: float = 50e9
    price: float = 2.0


CHANGES: tuple[dict[str, Any], ...] = (
    {"tower_chunk": 32},
    {"activation_checkpointing": True},
    {"activation_checkpointing": True, "tower_chunk": 32},
    {"activation_checkpointing": True, "tower_chunk": 32, "parallel": "fsdp"},
)  # tried in this order where a run does not fit: what costs least first


def plan(run: Run, machine: Machine, caption: int = CAPTION) -> list[str]:
    """Lines for the terminal. UsageError: a batch that the GPUs cannot share equally."""
    check_shares(run, machine.gpus)
    needs = dry_run(run, machine.gpus, caption=caption)
    return [
        *_size(run, machine, needs),
        "",
        *_memory(needs, machine),
        *_advice(run, machine, needs, caption),
        "",
        *_sent(needs, machine),
        "",
        *_days(run, machine, needs),
    ]


def check_shares(run: Run, gpus: int) -> None:
    for kind in ("pairs", "images"):
        size = getattr(run.batch, kind)
        if size % gpus:
            raise UsageError(
                f"the GPUs cannot have equally many {kind} of a step",
                where=f"batch.{kind}",
                got=f"{size} for {gpus} GPUs",
                expected=f"a multiple of {gpus}",
                do=f"--set batch.{kind}={-(-size // gpus) * gpus}",
            )


def check_fits(run: Run, gpus: int, memory: float, place: str = "a GPU") -> None:
    """ResourceError, with the numbers of `plan`, where a step cannot fit into each process's memory (bytes).

    place: what memory that is. On a CPU a step needs more than its plan says, which knows fused attention only.
    """
    machine = Machine(gpus, memory)
    needs = dry_run(run, gpus)
    if needs.total > USABLE * memory:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needs.memory.items())
        raise ResourceError(
            f"a step of this run does not fit into {place}",
            where="batch, model, activation_checkpointing, tower_chunk, parallel",
            got=f"about {needs.total / GIB:.1f} GiB: {parts}",
            expected=f"at most {USABLE * memory / GIB:.1f} GiB",
            do=" ".join(_advice(run, machine, needs, CAPTION)).strip(),
        )


def rough_bytes(run: Run) -> int:
    """More than a step holds (of our recipes two to five times), by counts alone: a small run fits, known at once."""
    model, batch = run.model, run.batch
    patches = ((model.pixels or model.image_size) // model.patch) ** 2
    words = batch.pairs * batch.caption_length + batch.text_tokens
    tokens = words + (batch.pairs + 2 * batch.images) * (REGIONS if model.member == "unimo" else patches)
    held = tokens * 200 * model.dimension("width") * layers_of(model) + words * 4 * model.vocabulary
    return 20 * rough_parameters(model) + held


def _size(run: Run, machine: Machine, needs: Needs) -> Iterator[str]:
    batch, gpus = run.batch, machine.gpus
    texts = batch.text_tokens // gpus
    yield f"{run.model.member} {run.model.size}, {needs.parameters / 1e6:.1f} M parameters, on {gpus} GPUs"
    yield f"  a step on each: {batch.pairs // gpus} pairs, {batch.images // gpus} images, {texts:,} tokens of texts"


def _memory(needs: Needs, machine: Machine) -> Iterator[str]:
    yield "  memory of each GPU, GiB"
    for name, size in needs.memory.items():
        yield f"    {name:<22}{size / GIB:8.2f}"
    yield f"    {'together':<22}{needs.total / GIB:8.2f} of {USABLE * machine.memory / GIB:.1f}"
    yield f"    {'largest tensor':<22}{needs.largest / GIB:8.2f}"


def _advice(run: Run, machine: Machine, needs: Needs, caption: int) -> Iterator[str]:
    """What makes a run fit that does not: the least of `CHANGES`."""
    if needs.total <= USABLE * machine.memory:
        return
    for change in CHANGES:
        if run.model.member == "unimo" and "tower_chunk" in change:
            continue
        total = dry_run(replace(run, **change), machine.gpus, caption=caption).total
        if total <= USABLE * machine.memory:
            settings = " ".join(f"--set {name}={str(value).lower()}" for name, value in change.items())
            yield f"  it does not fit; with {settings} it needs {total / GIB:.1f} GiB"
            return
    yield "  it does not fit, nor with what is computed again: a smaller batch (batch.pairs, ...), or more GPUs"


def _sent(needs: Needs, machine: Machine) -> Iterator[str]:
    yield f"  sent by each GPU in a step, at {machine.bandwidth / 1e9:g} GB/s"
    for name, size in needs.sent.items():
        yield f"    {name:<22}{size / 1e6:10.1f} MB {1000 * size / machine.bandwidth:8.1f} ms"


def _days(run: Run, machine: Machine, needs: Needs) -> Iterator[str]:
    """Speed and days. The whole step's arithmetic is the same on any number of GPUs; what each sends hardly changes,
    and can at best be hidden behind it."""
    whole = needs.operations * machine.gpus
    at = f"{machine.utilisation:.0%} of {machine.rate / 1e12:g} TFLOP/s"
    yield f"  {whole / 1e12:,.0f} TFLOP a step; at {at}, {machine.price:g} per GPU-hour"
    budgets: dict[str, float] = {}  # name -> steps
    if run.steps:
        budgets[f"{run.steps:,} steps"] = run.steps
    if (run.model.member, run.model.size) in PUBLISHED:
        theirs, time = PUBLISHED[run.model.member, run.model.size]
        budgets[f"the paper's {theirs} V100 x {time} days"] = theirs * time * 86400 * V100 / whole
    for gpus in sorted({machine.gpus, *GPUS}):
        computing = whole / (gpus * machine.rate * machine.utilisation)
        seconds = max(computing, sum(needs.sent.values()) / machine.bandwidth)
        row = f"    {gpus:>5} GPUs {1 / seconds:9.2f} steps/s"
        for name, steps in budgets.items():
            days = steps * seconds / 86400
            row += f" | {name}: {days:.2f} days, cost {days * 24 * gpus * machine.price:,.0f}"
        yield row + (" (sending takes longer than computing)" if seconds > computing else "")
