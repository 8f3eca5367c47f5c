"""Shared by all tests: no network, one thread, and the folder of real data where a checkout has it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore


LONGEST = (
    "test_contributing",
    "faults",
    "train/test_distributed",
    "finetune/test_finetune",
    "benchmark",
    "train",
    "regions/test_prepare",
    "rewriting/test_prepare",
    "neighbours/test_prepare",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: whole files go to a worker (`--dist loadfile`), and the last is waited for."""
    names = [f"/tests/{name}" for name in LONGEST]
    items.sort(key=lambda item: next((i for i, name in enumerate(names) if name in str(item.path)), len(names)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """`../shared` of the repository: real data and specifications, not part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (real data beside the repository), which this checkout lacks")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers of the authors' published code (tests/golden/README.md)."""
    return Path(__file__).resolve().parent / "golden"


@pytest.fixture(autouse=True)
def one_thread():
    """torch counts its threads when first imported, so a test that imports it late is covered too."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_benchmark():
    """How fast this machine multiplies is asked by every run; whoever trains here imported the loop when collected."""
    if loop := sys.modules.get("unimo.train.loop"):
        loop.matmul_rate = lambda *_: 1e9


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A small generated world with every kind of file the zero-shot tasks read."""
    from unimo.synthetic.dataset import write_world

    folder = tmp_path_factory.mktemp("tasks") / "world"
    write_world(folder, pairs=12, images=0, texts=6, heldout=32, compositional=8, classes=64, size=32)
    return folder


@pytest.fixture
def context():
    """What zero-shot tasks share, around a tiny random model."""
    from planted import random_pipeline

    from unimo.evaluation.zero_shot import EvalContext

    return EvalContext(random_pipeline())


@pytest.fixture
def tools():
    """`tests/helpers/planted.py`."""
    from planted import tools

    return tools
