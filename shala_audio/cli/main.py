"""The `shala-audio` command: gathers the commands, and turns a user's errors into one line and exit status 2."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import sys
import time
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

import shala_audio
from shala_audio.cli import data, doctor, evaluate, features, models, predict, recipe, serve, train
from shala_audio.errors import Stopped, UserError, first_line
from shala_audio.io import is_main_process

PATIENCE = 30  # seconds; a launcher ends the other processes well before

# Names of earlier versions, which work for this release.
OLD_NAMES = {
    "prepare": "data prepare", "votes": "data votes", "validate": "data validate", "convert": "data convert",
    "score": "evaluate score", "compare": "evaluate compare", "calibrate": "evaluate calibrate", "report": "evaluate report",
    "baseline": "evaluate baseline", "choose": "evaluate choose", "pool": "evaluate pool", "merge": "evaluate merge",
    "push": "models push", "neighbours": "models neighbours", "new-recipe": "recipe new",
}  # fmt: skip


class Commands(TyperGroup):
    """Takes commands by their old names too, with a line on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in OLD_NAMES:
            print(f"`shala-audio {args[0]}` is now `shala-audio {OLD_NAMES[args[0]]}`", file=sys.stderr)
            args = [*OLD_NAMES[args[0]].split(), *args[1:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="shala-audio",
    cls=Commands,
    help="Train language models, on speech or text, to answer with the distribution of human judgement.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command("features")(features.features)
app.command("predict")(predict.predict)
app.add_typer(evaluate.app, name="evaluate")
app.command("serve")(serve.serve)
app.add_typer(models.app, name="models")
app.add_typer(recipe.app, name="recipe")
app.command("doctor")(doctor.doctor)


@app.command(
    "train",
    help="Train by supervised learning, SHALA or GRPO; `shala-audio train --help` shows how.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train_command(context: typer.Context) -> None:
    train.run(context.args)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"shala-audio {shala_audio.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Train language models, on speech or text, to answer with the distribution of human judgement."""


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory", "can't allocate memory")
DISK_IN_WORDS = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos")  # safetensors, torch


def _disk(error: Exception) -> str:
    """What could not be written, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        what = f"a file could not be written whole ({' '.join(str(error).split())})"
    return (
        f"{what}; what was written before is whole: make room, or the folder writable, and run the same command again, "
        "with --resume where it has that"
    )


def _memory(error: Exception) -> str:
    """What did not fit, and what to do."""
    return (
        f"{first_line(error).split('. GPU')[0]}: take fewer rows at once (predict: --batch-size; train: "
        "--per_device_train_batch_size, with --gradient_accumulation_steps, or --gradient_checkpointing true), take a "
        "model with `weights: 4bit`, or end other processes that hold it; what was written before is whole"
    )


def main() -> None:
    """Entry point: exit 0 done, 1 the work failed, 2 the request was wrong."""
    if not sys.stderr.isatty():
        # Progress bars of the libraries below us, before they are imported.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    # TRL still passes an argument that transformers has renamed; nothing a user of ours could do about it.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    # torch and transformers bring a million objects that live for good: looking through them for garbage as often as Python
    # does by itself takes a quarter of the time that a command needs to start and to end.
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("shala_audio").setLevel(logging.INFO)
    try:
        app()
    except UserError as error:
        if not is_main_process() and not error.one_process:
            time.sleep(
                PATIENCE
            )  # whoever ends first has the launcher end the others, and the first process is to be heard
        print(f"shala-audio: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(f"shala-audio: stopped: {stop}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, of a GPU
        if full or any(words in str(error) for words in FULL):
            reason = _memory(error)
        # The libraries that write weights and tables say it in words of their own.
        elif getattr(error, "errno", None) in DISK or any(words in str(error) for words in DISK_IN_WORDS):
            reason = _disk(error)
        else:
            raise
        print(f"shala-audio: stopped: {reason}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
