"""What a benchmark is: the settings of its recipe, and what to know before it is run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Literal

from unimo.finetune.benchmarks.published_scores import ROWS
from unimo.finetune.settings import Finetuning
from unimo.train.optimizer import OptimizerSettings

WIDTH = 118  # columns of a story
NO_UNIMO2 = "spec unimo §6.4, §6.5; no numbers or code for UNIMO-2 (spec unimo2 §6.4)"


@dataclass(frozen=True)
class Benchmark:
    """A fine-tuning recipe. title: what is asked. files: options of the command that name them. expect: what a score
    should exceed, in place of published numbers. remarks: how the recipe differs, and what it needs."""

    run: Finetuning
    title: str
    data: str = ""
    files: str = "--train train.jsonl --dev dev.jsonl"
    source: str = "ours"
    hardware: str = "not measured"
    expect: str = ""
    remarks: str = ""
    start: str = "RUN"
    verb: Literal["finetune", "sweep"] = "finetune"

    def story(self) -> str:
        """Source, data, command, hardware and expected numbers, a line or more each."""
        name = self.run.task
        command = f"unimo {self.verb} {name} --init-from {self.start} {self.files} --out runs/{name}"
        lines = {"source": self.source, "data": self.data, "command": command, "hardware": self.hardware}
        lines["expect"] = self.expect or published(name)
        options: dict[str, Any] = {"width": WIDTH, "break_on_hyphens": False, "break_long_words": False}
        told = [
            textwrap.fill(text, initial_indent=f"{key:<10}", subsequent_indent=10 * " ", **options)
            for key, text in lines.items()
            if text
        ]
        return "\n".join(
            [self.title, "", *told, *([""] if self.remarks else []), *textwrap.wrap(self.remarks, **options)]
        )


def published(task: str) -> str:
    """The numbers of the papers in words."""
    if task not in ROWS:
        return "the papers report nothing"
    metric, split, _, base, large, _, second = ROWS[task]
    numbers = [f"UNIMO {base} base, {large} large" if base else "", f"UNIMO-2 {second}" if second else ""]
    return f"{metric}, {split}; published: {'; '.join(filter(None, numbers))}"


def adam(
    lr: float,
    *,
    warmup: float = 0.06,
    weight_decay: float = 0.0,
    beta2: float = 0.98,
    decay: Literal["unimo", "unimo2", "piecewise"] = "unimo",
) -> OptimizerSettings:
    """Adam of the released scripts (spec unimo §6.1): epsilon 1e-6, clipping at 1, and by default the line that is not
    shifted by its warm-up."""
    return OptimizerSettings(lr=lr, warmup=warmup, decay=decay, beta2=beta2, epsilon=1e-6, weight_decay=weight_decay)
