"""What this process may compute on: its cores, and the device of its models."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def usable_cores() -> int:
    """Cores that the system, Slurm or taskset leaves to this process; all of the machine where it does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """The accelerator where there is one, as torch calls it, else "cpu"."""
    import torch

    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def accelerator_computes_bf16() -> bool:
    """Whether the accelerator computes in bfloat16 by itself. NVIDIA's before Ampere imitate it, slower than float32."""
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def product_dtype(device: str) -> torch.dtype:
    """The type of two bytes in which a device is fast; float32 on a CPU that is not."""
    import torch

    return torch.bfloat16 if computes_bf16(device) else torch.float32 if device == "cpu" else torch.float16


def computes_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 by itself, a CPU faster than in float32."""
    return bf16_slowdown() < 1 if device == "cpu" else accelerator_computes_bf16()


@cache
def bf16_slowdown() -> float:
    """How many times longer this CPU takes for a matrix product in bfloat16 than in float32, measured once.

    A CPU without instructions for bfloat16 (AVX2 alone) computes it some 40 times slower, one with them twice as fast. One
    thread is measured: on a busy machine, several wait for each other.
    """
    import torch

    seconds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(10):  # another process may disturb some
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    torch.set_num_threads(threads)
    return seconds[torch.bfloat16] / seconds[torch.float32]
