"""What the machine underneath can do: precision, matrix-product rate, memory habits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from unimo.errors import ResourceError, UsageError

ENDED = "another process of the run ended or cannot be reached"

# What torch says when the machine gives out, in whatever class it says it -> what to tell, and what to do.
FAULTS = (
    (
        ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory"),
        "out of memory",
        "a smaller batch (batch.pairs, batch.images, batch.text_tokens) or model, or activation_checkpointing=true",
    ),
    (
        ("DataLoader worker", "DataLoader timed out"),
        "a loader process died or hangs",
        "look for the system's out-of-memory killer; fewer workers or a smaller data.cache_gb; then resume",
    ),
    (
        (
            "Connection closed by peer",
            "Connection reset",
            "Broken pipe",
            "Timed out waiting",
            "NCCL error",
            "gloo/transport",
        ),
        ENDED,
        "see that process's own message, then resume",
    ),
)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: bf16 where the hardware multiplies it fast, else float32.

    precision: auto, bf16, fp32 or, on a GPU and without training, fp16. On a CPU, auto chooses bf16 only with AMX or
    AVX-512 BF16 instructions.
    """
    known = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
    if precision not in ("auto", *known):
        raise UsageError("unknown precision", where="precision", got=precision, expected=f"auto, {', '.join(known)}")
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is for GPUs", where="precision", got="cpu", expected="bf16 or fp32", do="--device cuda")
    if precision in known:
        return known[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if {"amx_bf16", "avx512_bf16"} & cpu_flags() else torch.float32


def cpu_flags() -> set[str]:
    """Instruction sets of this processor as Linux names them; empty where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def free_memory() -> int | None:
    """Bytes that can still be allocated, at most those of a container; None where the system does not say."""
    free = None
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with contextlib.suppress(OSError, ValueError):  # "max", no number, where there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = limit if free is None else min(free, limit)
    return free


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory for the next step instead of returning it to the system.

    Every large tensor is otherwise mapped anew and its pages are zeroed by the kernel at first touch, each
    step: measured on 2 cores, a training step took 1.4 times as long. Elsewhere than on Linux with glibc this
    does nothing.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # parameter numbers of mallopt(3)
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.2) -> float:
    """Measured operations per second of a square matrix product, the roof progress is compared with."""
    a = torch.randn(size, size, device=device).to(dtype)
    best, started = 0.0, time.monotonic()
    while time.monotonic() - started < seconds:
        began = time.perf_counter()
        for _ in range(4):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - began))
    return best


@contextlib.contextmanager
def located_faults() -> Iterator[None]:
    """Turns torch's errors about memory, loader processes and the network into a ResourceError that says
    what to do. Of several processes, one that fails leaves word for the others, who say which it was.
    """
    from unimo import distributed  # choosing a precision needs no process groups

    try:
        yield
    except (RuntimeError, MemoryError) as fault:
        text = "out of memory" if isinstance(fault, MemoryError) else str(fault)
        for signs, what, do in FAULTS:
            if any(sign in text for sign in signs):
                where = distributed.who_ended() if what == ENDED else None
                error = ResourceError(what, where=where, got=text.strip().splitlines()[0][:300], do=do)
                if what != ENDED:
                    distributed.leave_word(error)
                raise error from fault
        distributed.leave_word(fault)
        raise
    except BaseException as fault:
        distributed.leave_word(fault)
        raise


def describe_machine() -> dict[str, str]:
    """A few words for reports."""
    flags = sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & cpu_flags())
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cpu": " ".join(flags) or "no wide instructions known",
        "load": f"{os.getloadavg()[1]:.1f} in the last 5 minutes, on {os.cpu_count()} cores",
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
