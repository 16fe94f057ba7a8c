"""A model's card: what it answers, what it learnt from, how close it comes to people, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError
from shala_audio.files import fill_in, read_json, write_text
from shala_audio.models.folder import CARD, SETTINGS
from shala_audio.tasks import task_from_dict

MEASURES = {
    "jsd": "Jensen-Shannon distance to the raters (base 2; smaller is better)",
    "accuracy": "accuracy of the plurality label",
    "macro_f1": "macro-F1 of the plurality label",
    "uar": "UAR of the plurality label",
    "entropy_correlation": "rank correlation of stated and human entropy",
}


def model_card(folder: str | Path, name: str | None = None) -> str:
    """The card in Markdown, of `shala.json`, and of `training.json` and `score.json` where they are there.

    Args:
        folder: of the model.
        name: by which others load it; the folder's where None.

    Raises:
        UserError: the folder holds no model.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder}: not a model folder ({SETTINGS} is missing)")
    settings = read_json(folder / SETTINGS)
    training, score = (
        read_json(path) if path.is_file() else {} for path in (folder / "training.json", folder / "score.json")
    )
    task = task_from_dict(settings["task"], str(folder / SETTINGS))
    return fill_in(
        "model_card.md",
        name=name or folder.resolve().name,
        task=task,
        fields=task.text_fields() if "text" in task.modality else (),
        model=settings["model"],
        readout=settings["readout"],
        training=training,
        data=training.get("data") or {},
        rows=_rows(score),
        score=score,
    )


def write_card(folder: Path) -> None:
    """Write a model folder's card into it."""
    write_text(folder / CARD, model_card(folder))


def _rows(score: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Measure, model, constant prior and ceiling, as written."""
    rows: list[tuple[str, ...]] = []
    for name, words in MEASURES.items():
        if name in score:
            found = (score[name], score.get("prior", {}).get(name), score.get("ceiling", {}).get(name))
            rows.append((words, *map(_written, found)))
    return rows


def _written(found: Mapping[str, float | None] | None) -> str:
    if not found or found["value"] is None:
        return "–"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
