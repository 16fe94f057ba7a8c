"""Predictions: JSON Lines of `{"id", "probs": {label: p}, "entropy"}`, ours or any other system's (entropy may be absent)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from shala_audio.distribution import Floats, LabelDistribution
from shala_audio.errors import UserError
from shala_audio.files import write_beside


def write_predictions(path: str | Path, predictions: Iterable[tuple[str, LabelDistribution]]) -> None:
    """Write beside and rename."""
    with write_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        for identity, distribution in predictions:
            file.write(prediction_line(identity, distribution) + "\n")


def prediction_line(identity: str, distribution: LabelDistribution) -> str:
    """One prediction as JSON; entropy in bits."""
    record = {"id": identity, "probs": distribution.to_dict(), "entropy": distribution.entropy}
    return json.dumps(record, ensure_ascii=False)


def read_predictions(path: str | Path, labels: Sequence[str]) -> Mapping[str, Floats]:
    """Predictions by row id, each (K,) in the order of `labels`.

    Raises:
        UserError: a line is not a prediction, has other labels, does not sum to 1 (within 0.01), or repeats an id.
    """
    found: dict[str, Floats] = {}
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
            identity, probs = record["id"], record["probs"]
            values = np.array([probs[label] for label in labels], dtype=np.float64)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: `id` and `probs` with {', '.join(labels)} are needed ({error!r})") from None
        if extra := sorted(set(probs) - set(labels)):
            raise UserError(f"{where}: labels {', '.join(extra)} are not the task's")
        if not np.isfinite(values).all() or (values < 0).any() or abs(values.sum() - 1) > 0.01:
            raise UserError(f"{where}: probabilities must be 0 or more and sum to 1; they sum to {values.sum():.4f}")
        if identity in found:
            raise UserError(f"{where}: id {identity!r} appears twice")
        found[identity] = values / values.sum()
    if not found:
        raise UserError(f"{path}: holds no prediction")
    return found
