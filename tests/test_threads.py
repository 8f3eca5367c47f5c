"""Threads: as many as the affinity mask and the container leave, unless the user said otherwise."""

import os
import subprocess
import sys

import pytest

from unimo import threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "rubbish"}, 8),
    ],
)
def test_cores_are_those_of_the_mask_and_the_quota(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.usable_cores(tmp_path) == cores


def test_what_was_chosen_is_said(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert threads.describe(2) == "2 threads, waiting passively" and threads.describe(1) == "1 thread"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert threads.describe(2) == "2 threads"


def test_what_the_user_set_stays():
    environment = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "100"}
    threads.set_up(environment)
    assert environment == {
        "OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "100", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0",
    }  # fmt: skip


def test_torch_starts_with_what_was_chosen():
    code = (
        "from unimo import threads; threads.usable_cores = lambda: 1; threads.set_up(); "
        "import torch; print(threads.describe(torch.get_num_threads()))"
    )
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *threads.WAITING)
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1 thread\n"
