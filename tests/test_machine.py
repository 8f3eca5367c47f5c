"""What the machine can do, asked without failing, and its faults turned into located errors."""

from types import SimpleNamespace

import pytest
import torch

from unimo import machine
from unimo.errors import ResourceError, UsageError
from unimo.machine import autocast_dtype, cpu_flags, describe_machine, matmul_rate
from unimo.machine_faults import located_faults

CPU = torch.device("cpu")


def test_precision_follows_the_wish_and_auto_follows_the_processor(monkeypatch):
    assert autocast_dtype("fp32", CPU) is torch.float32 and autocast_dtype("bf16", CPU) is torch.bfloat16
    for flags, expected in (({"avx2"}, torch.float32), ({"avx2", "amx_bf16"}, torch.bfloat16)):
        monkeypatch.setattr("unimo.machine.cpu_flags", lambda flags=flags: flags)
        assert autocast_dtype("auto", CPU) is expected
    monkeypatch.setattr("unimo.machine.cpu_flags", lambda: {"avx2", "avx512_bf16"})
    for faster, expected in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr("unimo.machine.bf16_is_faster", lambda faster=faster: faster)
        assert autocast_dtype("auto", CPU) is expected
    assert autocast_dtype("fp16", torch.device("cuda")) is torch.float16
    with pytest.raises(UsageError, match="fp16 is for GPUs"):
        autocast_dtype("fp16", CPU)
    with pytest.raises(UsageError, match="unknown precision") as caught:
        autocast_dtype("fp8", CPU)
    assert caught.value.expected == "auto, bf16, fp32, fp16"


def test_a_system_that_says_nothing_about_its_processor_is_taken_for_a_plain_one(monkeypatch):
    def missing(self, *_):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert cpu_flags() == set()


@pytest.mark.parametrize("rate", [1, 3])
def test_the_faster_precision_is_the_one_with_the_higher_rate(monkeypatch, rate):
    rates = {torch.float32: 2.0, torch.bfloat16: rate}
    monkeypatch.setattr(machine, "matmul_rate", lambda device, dtype, **_: rates[dtype])
    assert machine.bf16_is_faster.__wrapped__() is (rate > 2)


@pytest.mark.parametrize("processor, clock", [(False, "perf_counter"), (True, "process_time")])
def test_the_rate_is_the_best_of_what_was_measured(monkeypatch, processor, clock):
    """By a clock of its own: four products of 2 x 128^3 operations in 3 seconds, then in 2."""
    clocks = {"monotonic": iter([0, 0, 1, 9]).__next__, "perf_counter": None, "process_time": None}
    monkeypatch.setattr(machine, "time", SimpleNamespace(**clocks | {clock: iter([0, 3, 4, 6]).__next__}))
    assert matmul_rate(CPU, torch.float32, size=128, seconds=2, processor=processor) == 4 * 2 * 128**3 / 2


def test_the_description_is_short_printable_text():
    facts = describe_machine()
    assert {"system", "python", "torch", "threads", "cpu"} <= facts.keys()
    assert all(isinstance(value, str) and value.isprintable() for value in facts.values())


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a loader process died"),
        (RuntimeError("DataLoader timed out after 300 seconds"), "a loader process died"),
        (RuntimeError("pair.cc:534] Connection closed by peer [127.0.0.1]:1"), "another process of the run"),
    ],
)
def test_faults_of_the_machine_say_what_to_do(fault, what):
    with pytest.raises(ResourceError, match=what) as caught, located_faults():
        raise fault
    assert caught.value.do and caught.value.__cause__ is fault and caught.value.exit_code == 5


def test_allocating_too_much_for_real_is_a_located_error():
    with pytest.raises(ResourceError, match="out of memory"), located_faults():
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_faults_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape mismatch"), located_faults():
        raise RuntimeError("shape mismatch")
