"""What is shown while a run trains: a live bar or lines of progress, and curves in a tracker."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unimo import distributed
from unimo.batch import Batch
from unimo.errors import UsageError

EXTRAS = {"tensorboard": "train", "wandb": "wandb", "trackio": "trackio"}  # package -> extra that installs it
POINT_STEPS = 10  # between two points of a curve
MAX_LINE = 200


def check_tracker(kind: str) -> None:
    """UsageError where the chosen tracker is not installed."""
    if kind in EXTRAS and importlib.util.find_spec(kind) is None:
        do = f'pip install "unimo[{EXTRAS[kind]}]", or --log none: every step is in log.jsonl'
        raise UsageError("a tracker is not installed", where="log", got=kind, expected=f"the package {kind}", do=do)


class Tracker:
    """Curves of a run in TensorBoard, Weights & Biases or trackio; auto: TensorBoard where it is installed."""

    def __init__(self, kind: str, out: Path, step: int, config: dict[str, Any]):
        """step: points from there on are written anew. config: settings, as a tracker shows them."""
        if kind == "auto":
            kind = "tensorboard" if importlib.util.find_spec("tensorboard") else "none"
        self.board: Any = None
        self.service: Any = None
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step)
        elif kind != "none":  # both have the same functions
            self.service = importlib.import_module(kind)
            self.service.init(project="unimo", name=out.name, config=config, resume="allow")

    def plot(self, record: dict[str, Any]) -> None:
        if record["step"] % POINT_STEPS and "dev" not in record:
            return
        values = {name: value for name, value in record.items() if isinstance(value, float)}
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, record["step"])
        elif self.service is not None:
            self.service.log(values, step=record["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        elif self.service is not None:
            self.service.finish()


class Meter:
    """Live progress: time left, loss, pairs/s, every part of the loss, tokens/s, fraction of the matrix-product rate.

    In a terminal a bar that is drawn over every second, else a line every 15 seconds.
    """

    def __init__(self, peak: float, say: Callable[[str], None], names: Sequence[str] = ()):
        """peak: FLOP/s of a matrix product. names: of the parts of the losses; those of a part (x.accuracy of x) are
        not shown."""
        self.peak, self.say = peak, say
        self.names = [name for name in names if not any(name.startswith(f"{other}.") for other in names)] + ["dev"]
        self.live: Live | None = None
        if distributed.rank() == 0 and sys.stdout is not None and sys.stdout.isatty():
            # What others print meanwhile stands above the bar.
            self.live = Live(console=Console(file=sys.stdout, highlight=False), auto_refresh=False)
        self.every = 15.0 if self.live is None else 1.0
        self.began = self.shown = time.monotonic()
        self.pairs = self.tokens = self.cost = 0.0

    def show(self, record: dict[str, Any], batch: Batch, cost: float, fraction: float, elapsed: float) -> None:
        noun = "examples" if "examples" in batch.keys else "pairs"
        self.pairs += len(batch.keys[noun]) * distributed.world()
        self.tokens += len(batch.texts.ids) * distributed.world()
        self.cost += 3 * cost
        now = time.monotonic()
        if now - self.shown < self.every and fraction < 1:
            return
        seconds, fraction = max(now - self.began, 1e-9), min(fraction, 1.0)
        step = f"step {record['step']:>6} {fraction:4.0%}"
        left = f"{elapsed * (1 - fraction) / fraction / 60:.1f} min left"
        rate, loss = f"{self.pairs / seconds:.0f} {noun}/s", f"loss {record['loss']:.3f}"
        parts = " ".join(f"{name} {record[name]:.3f}" for name in self.names if name in record)
        more = f"{parts} | {self.tokens / seconds:,.0f} tokens/s | {self.cost / seconds / self.peak:.0%} of matmul"
        if self.live is None:
            self.say(f"{step} | {left} | {rate} | {loss} | {more}"[:MAX_LINE])
        else:
            self.live.start()
            self.live.update(_bar(step, fraction, f"{left} | {rate} | {loss}", more), refresh=True)
        self.shown = now
        if now - self.began > 60:  # rates of the last minute, not of the whole run
            self.began, self.pairs, self.tokens, self.cost = now, 0.0, 0.0, 0.0

    def close(self) -> None:
        """Leaves the bar where it stands."""
        if self.live is not None:
            self.live.stop()


def _bar(step: str, fraction: float, numbers: str, more: str) -> Group:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    row.add_row(Text(step), ProgressBar(total=1.0, completed=fraction), Text(numbers))
    return Group(row, Text(more, style="dim", no_wrap=True, overflow="ellipsis"))
