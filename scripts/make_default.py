"""Make the model that comes with the toolkit out of trained ones: weights to half precision, and a model card.

    python scripts/make_default.py --sound MODEL --sound-rows N --ravdess RESULT.json [--text MODEL --text-rows N]
    python scripts/make_default.py --large MODEL, and when that is scored: --large-card MODEL

`MODEL` is a folder of a trained model with its `score.json` on the test split; `RESULT.json` is what `benchmarks/ravdess.py` printed.
What is not named stays as it is; `make_default.sh` and `make_default_1.5b.sh` train and call it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shala_audio.inference.default import FOLDER, part
from shala_audio.inference.hub import LARGE, LARGE_FOLDER
from shala_audio.inference.neighbours import FILE
from shala_audio.io import atomic_write, read_json, write_json, write_text
from shala_audio.models.folder import CARD as CARD_OF_MODEL
from shala_audio.models.folder import SETTINGS, TRAINED, hub_files
from shala_audio.models.pretrained import base_sha256
from shala_audio.task import task_from_dict

CARD = Path(__file__).with_name("default_card.md")
LARGE_CARD = Path(__file__).with_name("large_card.md")
RANK = 4  # of LoRA in the large model
RECIPES = Path(__file__).parents[1] / "recipes"
FIELDS = FOLDER / "card.json"  # numbers of the card, for the part that is not made anew


def keep_rank(state: dict[str, torch.Tensor], settings: dict[str, Any], rank: int) -> None:
    """In the place of each LoRA, the nearest of a lower rank (Eckart and Young 1936)."""
    for name in [name for name in state if ".lora_A." in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        rows, right = torch.linalg.qr(state[name].float().T)  # (in, r), (r, r)
        columns, left = torch.linalg.qr(state[other].float())  # (out, r), (r, r)
        u, values, v = torch.linalg.svd(left @ right.T)
        root = values[:rank].sqrt()
        state[name] = root[:, None] * (v[:rank] @ rows.T)
        state[other] = columns @ u[:, :rank] * root
    model = settings["model"]
    model |= {"lora_alpha": model["lora_alpha"] * rank // model["lora_r"], "lora_r": rank}


def shrink(source: Path, target: Path, rank: int | None = None) -> float:
    """Copy a trained model with its weights in half precision, and LoRA of a lower rank if one is given; return its size in MB."""
    target.mkdir(parents=True, exist_ok=True)
    settings = read_json(source / SETTINGS)
    if encoder := settings["model"]["encoder"]:
        settings["encoder_sha256"] = base_sha256(encoder)
    state = load_file(source / TRAINED)
    if rank is not None:
        keep_rank(state, settings, rank)
    write_json(target / SETTINGS, settings)
    for name, content in hub_files(task_from_dict(settings["task"], str(source / SETTINGS))).items():
        write_json(target / name, content)
    shutil.copy(source / "score.json", target)  # what the page says about how good it is
    if (
        settings["task"]["modality"] != "text" and (source / FILE).is_file()
    ):  # GoEmotions' comments are not ours to show
        shutil.copy(source / FILE, target)
    state = {name: value.to(torch.float16).contiguous() for name, value in state.items()}
    with atomic_write(target / TRAINED) as beside:
        save_file(state, beside, metadata={"format": "pt"})
    return (target / TRAINED).stat().st_size / 1e6


def number(found: dict[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def recall_of(confusion: list[list[int]], labels: list[str]) -> dict[str, float]:
    return {label: row[k] / max(1, sum(row)) for k, (label, row) in enumerate(zip(labels, confusion, strict=True))}


def large_card(source: Path) -> None:
    """Write the card of the large model, whose score on the test split lies beside it."""
    score, before = read_json(LARGE_FOLDER / "score.json"), read_json(source / "score.json")
    with open(RECIPES / "chaosnli" / "RESULTS.csv", encoding="utf-8") as file:
        row = next(
            row for row in csv.DictReader(file) if (row["system"], row["measure"]) == ("sft_soft (label_token)", "jsd")
        )
    fields = {
        "name": LARGE, "rank": RANK, "n": score["n"], "size": f"{(LARGE_FOLDER / TRAINED).stat().st_size / 1e6:.1f}",
        "jsd": number(score["jsd"]), "before": number(before["jsd"]), "prior": number(score["prior"]["jsd"]),
        "small": number({end: float(row[end]) for end in ("value", "low", "high")}), "accuracy": number(score["accuracy"]),
    }  # fmt: skip
    write_text(LARGE_FOLDER / CARD_OF_MODEL, LARGE_CARD.read_text(encoding="utf-8").format(**fields))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--sound", "--text", "--ravdess"):
        parser.add_argument(name, type=Path)
    for name in ("--sound-rows", "--text-rows"):
        parser.add_argument(name, type=int)
    for option in ("--large", "--large-card"):
        parser.add_argument(option, type=Path, metavar="MODEL")
    given = parser.parse_args()
    if given.large:
        print(f"{LARGE_FOLDER}: {shrink(given.large, LARGE_FOLDER, RANK):.1f} MB")
        return
    if given.large_card:
        large_card(given.large_card)
        return
    fields: dict[str, Any] = read_json(FIELDS) if FIELDS.is_file() else {}
    for name, source, rows in (("sound", given.sound, given.sound_rows), ("text", given.text, given.text_rows)):
        if source is None:
            continue
        score = read_json(source / "score.json")
        fields |= {
            f"{name}_size": f"{shrink(source, part(sound=name == 'sound')):.1f}",
            f"{name}_rows": f"{rows:,}",
            f"{name}_jsd": number(score["jsd"]),
            f"{name}_prior": number(score["prior"]["jsd"]),
            f"{name}_accuracy": number(score["accuracy"]),
        }
        if name == "sound":
            labels = [label["name"] for label in read_json(source / SETTINGS)["task"]["labels"]]
            fields["sound_uar"] = number(score["uar"])
            fields["crema_recall"] = recall_of(score["confusion"], labels)
    if given.ravdess:
        found = json.loads(given.ravdess.read_text(encoding="utf-8").strip().splitlines()[-1])
        fields["ravdess"] = {
            f"{system} {way}": {"uar": mine["uar"], "recall": mine["recall"]}
            for system, ways in found.items()
            for way, mine in ways.items()
        }
        fields["ravdess_n"] = found["model"]["16 kHz"]["n"]
    write_json(FIELDS, fields)
    labels = list(fields["crema_recall"])
    lines = ["| corpus | " + " | ".join(labels) + " | UAR |", "|---" * (len(labels) + 2) + "|"]
    shown = {
        "CREMA-D, unseen speakers": {
            "recall": fields["crema_recall"],
            "uar": sum(fields["crema_recall"].values()) / len(labels),
        }
    }
    shown |= {
        f"RAVDESS, {name.replace('model ', '')}": value
        for name, value in fields["ravdess"].items()
        if name.startswith("model")
    }
    shown |= {
        f"RAVDESS, {name.replace('linear ', '')}, linear classifier": value
        for name, value in fields["ravdess"].items()
        if name.startswith("linear")
    }
    for name, value in shown.items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{value['recall'][label]:.2f}" for label in labels)
            + f" | {value['uar']:.2f} |"
        )
    write_text(FOLDER / "README.md", CARD.read_text(encoding="utf-8").format(**fields, recall="\n".join(lines)))
    print(f"{FOLDER}: {float(fields['sound_size']) + float(fields['text_size']):.1f} MB")


if __name__ == "__main__":
    main()
