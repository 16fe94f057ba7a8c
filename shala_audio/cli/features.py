"""`shala-audio features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def features(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose sound is encoded.")],
    model: Annotated[str, typer.Option(help="Model configuration: a name in configs/models, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the features.")],
    audio_root: Annotated[Path, typer.Option(help="Folder that the manifest's paths start from.")],
) -> None:
    """Encode every clip once. Run again after an interruption or a change: only what is missing is encoded.

    Example: shala-audio features data/manifest.jsonl --model speech --audio-root CREMA-D --out features
    """
    import torch

    from shala_audio.audio.encoders import WhisperFrontEnd
    from shala_audio.audio.features import write_features
    from shala_audio.data.rows import read_manifest
    from shala_audio.models.config import load_model_config
    from shala_audio.models.sources import locate

    config = load_model_config(model)
    if config.encoder is None:
        raise UserError(f"--model: {model} has no encoder")
    rows = [row for row in read_manifest(manifest) if row.audio is not None]
    if not rows:
        raise UserError(f"{manifest}: no row has sound")
    device = str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"
    front_end = WhisperFrontEnd(locate(config.encoder, print), config.encoder_layers, device)
    encoded = write_features(rows, audio_root, front_end, config.encoder_identity(), out)
    print(f"{out}: {encoded} clips encoded, {len(rows) - encoded} were there")
