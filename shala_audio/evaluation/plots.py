"""Pictures for reports (needs the `plots` extra)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError
from shala_audio.evaluation.tables import table_rows
from shala_audio.files import write_beside


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UserError("pictures need matplotlib: pip install 'shala-audio[plots]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_jsd(scores: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Bars of jsd with their 95 % intervals, one for each system."""
    pyplot = _pyplot()
    rows = table_rows(scores)
    values = [measures["jsd"]["value"] for _, measures in rows]
    errors = [
        [m["jsd"]["value"] - m["jsd"]["low"] for _, m in rows],
        [m["jsd"]["high"] - m["jsd"]["value"] for _, m in rows],
    ]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(rows) + 1))
    axes.barh([name for name, _ in rows], values, xerr=errors, color="#4c72b0")
    axes.invert_yaxis()
    axes.set_xlabel("Jensen-Shannon distance to the raters (base 2), less is better")
    _save(pyplot, figure, path)


def plot_training(logs: Mapping[str, Path], path: Path) -> None:
    """Loss by step of every training log."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, log in logs.items():
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        points = [(record["step"], float(record["loss"])) for record in records if "loss" in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    _save(pyplot, figure, path)


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    figure.tight_layout()
    with write_beside(path) as beside:
        figure.savefig(beside, format="png", dpi=150, metadata={"Software": None})
    pyplot.close(figure)
