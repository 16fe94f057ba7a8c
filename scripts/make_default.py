"""Make the model that comes with the toolkit out of two trained ones: weights to half precision, and a model card.

    python scripts/make_default.py --sound recipes/crema_d/exp/NAME --text recipes/goemotions/exp/NAME --ravdess RESULT.json

`RESULT.json` is the last line that `benchmarks/ravdess.py` prints.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shala_audio.inference.default import FOLDER, part
from shala_audio.inference.neighbours import FILE
from shala_audio.io import atomic_write, read_json, write_json, write_text
from shala_audio.models.folder import SETTINGS, TRAINED, hub_files
from shala_audio.models.pretrained import base_sha256
from shala_audio.task import task_from_dict

CARD = Path(__file__).with_name("default_card.md")


def shrink(source: Path, target: Path) -> float:
    """Copy a trained model with its weights in half precision; return its size in MB."""
    target.mkdir(parents=True, exist_ok=True)
    settings = read_json(source / SETTINGS)
    if encoder := settings["model"]["encoder"]:
        settings["encoder_sha256"] = base_sha256(encoder)
    write_json(target / SETTINGS, settings)
    for name, content in hub_files(task_from_dict(settings["task"], str(source / SETTINGS))).items():
        write_json(target / name, content)
    shutil.copy(source / "score.json", target)  # what the page says about how good it is
    if (
        settings["task"]["modality"] != "text" and (source / FILE).is_file()
    ):  # GoEmotions' comments are not ours to show
        shutil.copy(source / FILE, target)
    state = {name: value.to(torch.float16) for name, value in load_file(source / TRAINED).items()}
    with atomic_write(target / TRAINED) as beside:
        save_file(state, beside, metadata={"format": "pt"})
    return (target / TRAINED).stat().st_size / 1e6


def number(found: dict[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--sound", "--text", "--ravdess"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args()
    fields: dict[str, Any] = {}
    for name, experiment in (("sound", given.sound), ("text", given.text)):
        score = read_json(experiment / "shala" / "score.json")
        data = read_json(experiment / "pack" / "data.json")
        fields |= {
            f"{name}_size": shrink(experiment / "shala", part(sound=name == "sound")),
            f"{name}_rows": data["splits"]["train"]["rows"],
            f"{name}_jsd": number(score["jsd"]),
            f"{name}_prior": number(score["prior"]["jsd"]),
            f"{name}_accuracy": number(score["accuracy"]),
        }
    ravdess = json.loads(given.ravdess.read_text(encoding="utf-8").strip().splitlines()[-1])
    for system, name in (("model", "ravdess"), ("linear", "linear")):
        fields |= {f"{name}_{key}": number(ravdess[system][key]) for key in ("accuracy", "uar")}
    write_text(FOLDER / "README.md", CARD.read_text(encoding="utf-8").format(**fields, ravdess_n=ravdess["model"]["n"]))
    print(f"{FOLDER}: {fields['sound_size'] + fields['text_size']:.1f} MB")


if __name__ == "__main__":
    main()
