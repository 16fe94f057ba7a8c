"""What this process may compute on: its cores, and the device of its models."""

from __future__ import annotations

import os


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
