"""`shala-audio features`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shala_audio.cli.shards import parse_shard
from shala_audio.devices import usable_cores
from shala_audio.errors import UserError


def features(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose sound is encoded.")],
    model: Annotated[str, typer.Option(help="Model configuration: a name in configs/models, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the features.")],
    audio_root: Annotated[Path, typer.Option(help="Folder that the manifest's paths start from.")],
    augmentations: Annotated[
        int,
        typer.Option(
            "--augmentations", "--copies", help="Of each training clip: other speed, volume and noise, for training."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of these augmentations.")] = 0,
    skip_bad: Annotated[bool, typer.Option(help="Go on without clips that cannot be used; each is named.")] = False,
    good: Annotated[
        Path | None, typer.Option(help="With --skip-bad: write a manifest without the rows whose sound cannot be used.")
    ] = None,
    nproc: Annotated[int, typer.Option(help="Processes that share the work, on CPUs.")] = 1,
    shard: Annotated[
        str | None, typer.Option(help="Encode part I of N alone, as I/N: for jobs on several machines.")
    ] = None,
) -> None:
    """Encode every clip once. Run again after an interruption or a change: only what is missing is encoded.

    Example: shala-audio features data/manifest.jsonl --model speech --audio-root CREMA-D --out features
    """
    if augmentations < 0 or nproc < 1:
        raise UserError("--augmentations takes 0 or more, --nproc 1 or more")
    part, parts = parse_shard(shard)
    if good is not None and (not skip_bad or shard):
        raise UserError("--good goes with --skip-bad, and not with --shard")
    if nproc > 1:
        if shard is not None:
            raise UserError("--shard and --nproc: use one of them")
        _in_processes(nproc, manifest, model)  # after which the rest of this finds everything there

    from shala_audio.audio.encoders import load_encoder
    from shala_audio.audio.features import write_features
    from shala_audio.devices import default_device
    from shala_audio.manifest import read_manifest, write_manifest
    from shala_audio.models.config import load_model_config
    from shala_audio.models.pretrained import locate

    config = load_model_config(model)
    if config.encoder is None:
        raise UserError(f"--model: {model} has no encoder")
    everything = read_manifest(manifest)
    rows = [row for row in everything if row.audio is not None]
    if not rows:
        raise UserError(f"{manifest}: no row has sound")
    rows = rows[part - 1 :: parts]
    encoder = load_encoder(locate(config.encoder, print), config.cached_layers(), default_device())
    done = write_features(rows, audio_root, encoder, config.encoder_identity(), out, augmentations, seed)
    print(f"{out}: {done.new} clips encoded, {done.old} were there")
    if done.unfit:
        print(f"{done.unfit} augmentations became too short or too long, and are left out")
    for line in shown_by_reason(done.bad):
        print(line, file=sys.stderr)
    if len(done.bad) == len(rows):
        raise UserError(f"none of the {len(rows)} clips of {audio_root} can be used, for the reasons above")
    if done.bad and not skip_bad:
        raise UserError(
            f"{len(done.bad)} of {len(rows)} clips cannot be used; --skip-bad leaves them out, here and in training"
        )
    if done.bad:
        print(f"{len(done.bad)} of {len(rows)} clips are left out")
    if good is not None:
        write_manifest(good, [row for row in everything if row.id not in done.bad])


def shown_by_reason(bad: Mapping[str, str], most: int = 5) -> list[str]:
    """Lines that name rows and what is wrong with each: the first few of every reason, and how many more there are.

    >>> shown_by_reason({"r1": "a.wav: no such file", "r2": "b.wav: no such file"}, most=1)
    ['row r1: a.wav: no such file', 'and 1 more: no such file']
    """
    by_reason: dict[str, list[str]] = {}
    for identity, error in sorted(bad.items()):
        by_reason.setdefault(error.split(": ", 1)[-1], []).append(f"row {identity}: {error}")
    lines = []
    for reason, members in by_reason.items():
        lines += members[:most]
        if len(members) > most:
            lines.append(f"and {len(members) - most} more: {reason}")
    return lines


def _in_processes(count: int, manifest: Path, model: str) -> None:
    """The same command in several processes, each with its share of the rows and of the CPU's threads."""
    from shala_audio.models.config import load_model_config
    from shala_audio.models.pretrained import locate

    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest")
    locate(str(load_model_config(model).encoder), print)  # once, before they all want it
    threads = max(1, usable_cores() // count)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    given = [argument for argument in sys.argv[1:] if not argument.startswith(("--nproc=", "--good="))]
    for option in ("--nproc", "--good"):
        while option in given:
            at = given.index(option)
            del given[at : at + 2]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "shala_audio.cli.main", *given, "--shard", f"{part}/{count}"], env=environment
        )
        for part in range(1, count + 1)
    ]
    status = [process.wait() for process in running]
    if any(status):
        raise typer.Exit(max(1, *status))  # a process that was killed has a status below 0
