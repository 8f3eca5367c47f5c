"""What is shown while a run trains: TensorBoard curves and a line of progress."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unimo import distributed
from unimo.batch import Batch


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
    """Live progress: losses, pairs/s, tokens/s, fraction of the measured matrix-product rate, time left."""

    def __init__(self, peak: float, say: Callable[[str], None], names: Sequence[str] = ()):
        """peak: FLOP/s of a matrix product. names: of the parts of the losses; those of a part (x.accuracy of x) are
        not shown."""
        self.peak, self.say = peak, say
        self.names = [name for name in names if not any(name.startswith(f"{other}.") for other in names)] + ["dev"]
        self.terminal = sys.stdout is not None and sys.stdout.isatty() and distributed.rank() == 0
        self.every = 1.0 if self.terminal else 15.0
        self.began = self.shown = time.monotonic()
        self.pairs = self.tokens = self.cost = 0.0
        self.live = False  # a line stands there that is written over

    def show(self, record: dict[str, Any], batch: Batch, cost: float, fraction: float, elapsed: float) -> None:
        self.noun = "examples" if "examples" in batch.keys else "pairs"
        self.pairs += len(batch.keys[self.noun]) * distributed.world()
        self.tokens += len(batch.texts.ids) * distributed.world()
        self.cost += 3 * cost
        now = time.monotonic()
        if now - self.shown < self.every and fraction < 1:
            return
        seconds = now - self.began
        left = elapsed * max(0.0, 1 - fraction) / fraction
        losses = " ".join(f"{name} {record[name]:.3f}" for name in self.names if name in record)
        line = (
            f"step {record['step']:>6} {min(fraction, 1):4.0%} | {left / 60:.1f} min left | loss {record['loss']:.3f} "
            f"| {self.pairs / seconds:.0f} {self.noun}/s | {losses} | "
            f"{self.tokens / seconds:,.0f} tokens/s | {self.cost / seconds / self.peak:.0%} of matmul"
        )
        if self.terminal:  # one line that is written over
            print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
            self.live = True
        else:
            self.say(line[:200])
        self.shown = now
        if now - self.began > 60:  # rates of the last minute, not of the whole run
            self.began, self.pairs, self.tokens, self.cost = now, 0.0, 0.0, 0.0

    def close(self) -> None:
        """Leaves the line that is written over."""
        if self.live:
            print(flush=True)
            self.live = False
