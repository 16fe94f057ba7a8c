"""`shala-audio doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

PACKAGES = ("torch", "torchaudio", "transformers", "peft", "accelerate", "soundfile")
EXTRAS = {"trl": "train", "datasets": "train", "fastapi": "serve", "uvicorn": "serve", "matplotlib": "plots"}
EXTRAS |= {"tensorboard": "tensorboard", "openpyxl": "excel"}


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            help="Estimate the memory of a training step of this model instead: a name in configs/models, or a YAML file."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(help="With --model: rows of a step.", min=1)] = 16,
    tokens: Annotated[int, typer.Option(help="With --model: tokens of a row, sound included.", min=1)] = 512,
) -> None:
    """Check what is installed and what works, and say how to mend the rest. Exits with 1 if something needed fails.

    Example: shala-audio doctor --model text_1.5b --rows 8 --tokens 128
    """
    if model is not None:
        for line in memory_lines(model, rows, tokens):
            print(line)
        return
    from shala_audio.models.pretrained import DEFAULT_MODELS, NOT_PULLED, cache_folder, describe
    from shala_audio.torchaudio_fix import needs_fix

    print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    broken = False
    for name in PACKAGES:
        try:
            print(f"ok       {name} {version(name)}")
        except PackageNotFoundError:
            broken = True
            print(f"MISSING  {name}: pip install {name}")
    for name, extra in EXTRAS.items():
        try:
            print(f"ok       {name} {version(name)}")
        except PackageNotFoundError:
            print(f"absent   {name}: in the clone, pip install -e '.[{extra}]' if you want it")
    found = shutil.which("ffmpeg")
    reads = "to read m4a, webm and the like"
    print(f"ok       ffmpeg is there, {reads} ({found})" if found else f"absent   ffmpeg: install it {reads}")
    if needs_fix():
        print("note     torchaudio is built for CUDA and torch is not: its compiled extension is switched off by")
        print("         `import shala_audio`, which must come before peft, trl or torchaudio in your own programs")
    try:
        import peft
        import torch
        import torchaudio

        assert peft and torch and torchaudio
        print("ok       torch, torchaudio and peft can be imported")
        for line in accelerators():
            print(line)
    except (ImportError, OSError) as error:
        broken = True
        print(f"BROKEN   {error}")
    for name in DEFAULT_MODELS:
        print(
            f"ok       {name} is in the cache"
            if describe(name)["state"] != NOT_PULLED
            else f"absent   {name}: shala-audio models pull {name}"
        )
    print(f"cache    {cache_folder()}")
    if broken:
        raise typer.Exit(1)


def memory_lines(name: str, rows: int, tokens: int) -> list[str]:
    """What a training step of a model takes, in GB."""
    from shala_audio.models.config import load_model_config
    from shala_audio.models.memory import GB, reckon

    found = reckon(load_model_config(name), rows, tokens)
    lines = [
        f"language model {found.parameters / 1e9:.2f} billion parameters; {rows} rows of {tokens} tokens a step, in bfloat16"
    ]
    parts = {
        "frozen weights": found.weights,
        "LoRA, gradients, moments": found.trained,
        "activations": found.activations,
    }
    lines += [f"{value / GB:8.1f} GB  {what}" for what, value in parts.items()]
    lines.append(f"{found.total() / GB:8.1f} GB  in all")
    lines.append(f"{found.total(checkpointing=True) / GB:8.1f} GB  in all with gradient_checkpointing, a third slower")
    return lines


def accelerators() -> list[str]:
    """What there is to compute on besides the CPU, or why nothing is used."""
    import torch

    from shala_audio.devices import accelerator_computes_bf16, default_device

    if torch.cuda.is_available():
        number = "bfloat16" if accelerator_computes_bf16() else "float32, since the first one has no bfloat16"
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [f"ok       GPU {one.name}, {one.total_memory / 2**30:.0f} GiB; computes in {number}" for one in found]
    if torch.accelerator.is_available():
        return [f"ok       accelerator {default_device()}"]
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ["ok       CUDA_VISIBLE_DEVICES hides the GPUs, if any; the CPU is used"]
    if Path("/dev/nvidia0").exists():
        why = (
            "cannot use it (is the driver new enough?)" if torch.version.cuda else "is built for CPUs (see pytorch.org)"
        )
        return [f"note     there is an NVIDIA GPU, and torch {why}; the CPU is used"]
    return ["ok       no GPU; the CPU is used"]
