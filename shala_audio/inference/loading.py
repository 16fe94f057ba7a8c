"""From the folder of a trained model, or of an experiment, to a model that is ready to be asked."""

from __future__ import annotations

from pathlib import Path

import torch

from shala_audio.cores import accelerator_computes_bf16
from shala_audio.errors import UserError, not_one_of
from shala_audio.evaluation.calibration import KINDS, Calibration, load_calibration
from shala_audio.models.adapters import merge_adapters
from shala_audio.models.folder import SETTINGS
from shala_audio.models.speech_lm import SpeechLM


def load_model(
    folder: Path, calibration: str | None, device: str, dtype: torch.dtype | None
) -> tuple[Path, SpeechLM, Calibration | None, torch.dtype]:
    """The folder that holds the model, the model, what calibrates it, and the type that products are computed in.

    Args:
        folder, calibration, device, dtype: as of `Predictor.from_pretrained`.

    Raises:
        UserError: there is no model, or no such calibration.
    """
    inside = next(
        (
            place
            for place in (folder, *(folder / name for name in ("shala", "shala_exact", "pack")))
            if _holds_model(place)
        ),
        None,
    )
    if inside is None:
        raise UserError(f"{folder}: holds no model ({SETTINGS} is missing)")
    model = SpeechLM.from_pretrained(inside)
    fitted = None
    if calibration is not None:
        if calibration not in KINDS:
            raise not_one_of("calibration", calibration, KINDS)
        path = inside / f"calibration_{calibration}.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; `shala-audio calibrate` fits one on the dev split")
        fitted = load_calibration(str(path), model.task.label_names)
    if dtype is None:
        on_cpu = torch.device(device).type == "cpu"
        dtype = torch.float32 if on_cpu or not accelerator_computes_bf16() else torch.bfloat16
    if dtype == torch.float32:
        merge_adapters(model)
    else:  # added to weights that are published in bfloat16, most of LoRA would be rounded away
        model.model.decoder.to(dtype)
        model.lm_head.to(dtype)
    return inside, model, fitted, dtype


def _holds_model(folder: Path) -> bool:
    return (folder / SETTINGS).is_file()
