"""What the machine underneath can do: precision, matrix-product rate, memory habits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from functools import cache
from pathlib import Path

import torch

from unimo.errors import UsageError


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: bf16 where the hardware multiplies it fast, else float32.

    precision: auto, bf16, fp32 or, on a GPU and without training, fp16. On a CPU, auto chooses bf16 with AMX, and with
    AVX-512 BF16 where a product is faster so.
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
    flags = cpu_flags()
    fast = "amx_bf16" in flags or ("avx512_bf16" in flags and bf16_is_faster())
    return torch.bfloat16 if fast else torch.float32


@cache
def bf16_is_faster() -> bool:
    """Whether this CPU multiplies faster in bf16 than in float32; a fifth of a second to find out.

    AVX-512 BF16 alone does not tell: some processors without AMX have it at half the rate of float32.
    """
    bf16, fp32 = (
        matmul_rate(torch.device("cpu"), dtype, size=768, seconds=0.05, processor=True)
        for dtype in (torch.bfloat16, torch.float32)
    )
    return bf16 > fp32


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


def matmul_rate(
    device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.2, processor: bool = False
) -> float:
    """Measured operations per second of a square matrix product, the roof progress is compared with.

    processor: count the seconds of this process alone, those of all its threads, so that other work is not in them.
    """
    a = torch.randn(size, size, device=device).to(dtype)
    best, started, clock = 0.0, time.monotonic(), time.process_time if processor else time.perf_counter
    while time.monotonic() - started < seconds:
        began = clock()
        for _ in range(4):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 4 * 2 * size**3 / (clock() - began))
    return best


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
