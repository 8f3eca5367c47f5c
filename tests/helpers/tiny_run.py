"""A run that fits in a test: a world of a hundred scenes at 32 px, a model of one layer per tower."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from unimo import checkpoint
from unimo.config import override
from unimo.data.loader import Budgets, Stream
from unimo.errors import Restart
from unimo.model.build import ModelSettings
from unimo.objectives import ImageTextMatching, MaskedLanguageModeling, Seq2SeqGeneration
from unimo.synthetic.dataset import write_world
from unimo.tokenizer import Tokenizer
from unimo.train import run_folder
from unimo.train.data import open_corpora
from unimo.train.loop import train
from unimo.train.optimizer import OptimizerSettings
from unimo.train.settings import Data, Objectives, Run

PAIRS, IMAGES, TEXTS = 24, 12, 20


def write_tiny_world(folder: Path) -> Path:
    write_world(folder, pairs=PAIRS, images=IMAGES, texts=TEXTS, heldout=0, compositional=0, classes=0, size=32)
    return folder


def tiny(world: Path, *assignments: str) -> Run:
    """Six steps over all three kinds and all objectives, with dropout, averaging and a checkpoint every
    two steps.
    """
    run = Run(
        model=ModelSettings(
            size="tiny",
            width=16,
            heads=2,
            image_depth=1,
            text_depth=1,
            grounded_depth=1,
            image_size=32,
            patch=8,
            positions=66,
            dictionary=16,
            chosen=4,
        ),
        data=Data(texts=(str(world / "texts"),), images=(str(world / "images"),), pairs=(str(world / "pairs"),)),
        batch=Budgets(pairs=4, images=2, text_tokens=64, caption_length=24, passage_length=32),
        objectives=Objectives(
            mlm=MaskedLanguageModeling(pairs=2),
            seq2seq=Seq2SeqGeneration(pairs=2),
            itm=ImageTextMatching(pairs=2),
        ),
        optimizer=OptimizerSettings(lr=1e-3),
        steps=6,
        save_steps=2,
        workers=0,
        precision="fp32",
        ema_decay=0.9,
        log="none",
    )
    last = {assignment.partition("=")[0]: assignment for assignment in assignments}  # a later one replaces an earlier
    return override(run, last.values())


def stream_of(run: Run, out: Path, rank: int = 0, world: int = 1) -> Stream:
    """The batches `train` would read."""
    corpora = open_corpora(run, out, lambda line: None)
    return Stream(
        corpora,
        run.batch,
        list(run.objectives.active().values()),
        size=run.model.image_size,
        tokenizer=Tokenizer.default(),
        seed=run.seed,
        pair_views=run.data.pair_views,
        image_views=run.data.image_views,
        rank=rank,
        world=world,
    )


def warm_up(folder: Path) -> Path:
    """What every run does once per process, done before runs are forked: imports, tokenizer, world,
    indexes.
    """
    torch.set_num_threads(1)
    for heavy in ("torch._dynamo", "torch._inductor.config", "torch._inductor.standalone_compile"):
        importlib.import_module(heavy)
    world = write_tiny_world(folder / "world")
    open_corpora(tiny(world), folder, quiet)
    return world


def quiet(line: str) -> None:
    """Progress nobody reads."""


def train_until_done(run: Run, out: Path) -> Path:
    """Trains and, whenever asked to stop, starts the same command again with --resume."""
    resume = (out / "settings.json").exists()
    while True:
        try:
            return train(run, out, resume=resume, say=quiet)
        except Restart:
            resume = True


def log_of(out: Path) -> list[dict]:
    """The log without the clock."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in run_folder.read_log(out / "log.jsonl")]


def bits_of(path: Path) -> dict[str, bytes]:
    """Every tensor of a checkpoint as bytes, by name."""
    groups = checkpoint.load(path).tensors
    return {f"{g}/{n}": t.numpy().tobytes() for g, named in groups.items() for n, t in named.items()}
