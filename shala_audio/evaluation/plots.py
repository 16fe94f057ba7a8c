"""Pictures for reports (needs the `plots` extra)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot

from shala_audio.evaluation.report import Rows, measure
from shala_audio.evaluation.runs import System
from shala_audio.io import atomic_write

matplotlib.use("Agg")  # no window, and none is needed

LESS_IS_BETTER = "Jensen-Shannon distance to the raters (base 2), less is better"


@contextmanager
def picture(path: Path, *panels: int, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, which are written to `path` when they are drawn."""
    figure, axes = pyplot.subplots(*panels, **options)
    yield figure, axes
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    with atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def plot_jsd(rows: Rows, path: Path) -> None:
    """Bars of jsd, with 95 % intervals or deviations over seeds, one for each system."""
    with picture(path, figsize=(7, 0.4 * len(rows) + 1)) as (_, axes):
        values = [found["jsd"]["value"] for _, found in rows]
        axes.barh([name for name, _ in rows], values, xerr=_errors(rows, "jsd"), color="#4c72b0")
        axes.invert_yaxis()
        axes.set_xlabel(LESS_IS_BETTER)


def plot_terciles(rows: Rows, path: Path) -> None:
    """jsd within each third of the rows by human entropy, a line for each system."""
    with picture(path, figsize=(7, 4)) as (_, axes):
        thirds = ("low", "middle", "high")
        for name, found in rows:
            values = [measure(found, third).get("value") for third in thirds]
            if any(value is not None for value in values):
                axes.plot(thirds, [np.nan if value is None else value for value in values], marker="o", label=name)
        axes.set_xlabel("thirds of the rows by the raters' entropy")
        axes.set_ylabel("jsd")
        axes.legend(fontsize=7)


def plot_reliability(systems: Sequence[System], path: Path) -> None:
    """Human against predicted entropy, mean of ten bins of rows by predicted entropy; the diagonal is right."""
    with picture(path, figsize=(5, 5)) as (_, axes):
        top = 0.1
        for system in systems:
            bins = system.runs[0].score.get("reliability", [])
            if len(bins) > 1:
                stated, human = [found["stated"] for found in bins], [found["human"] for found in bins]
                axes.plot(stated, human, marker="o", label=system.name)
                top = max(top, *stated, *human)
        axes.plot([0, top], [0, top], color="grey", linestyle=":")
        axes.set_xlabel("entropy that the model predicts (bits)")
        axes.set_ylabel("entropy of the raters (bits)")
        axes.legend(fontsize=7)


def plot_entropy(system: System, path: Path) -> None:
    """Human and predicted entropy of rows, one dot each (500 at most)."""
    with picture(path, figsize=(5, 5)) as (_, axes):
        points = np.array(system.runs[0].score["entropies"])
        axes.scatter(points[:, 0], points[:, 1], s=8, alpha=0.5)
        top = float(points.max()) or 1.0
        axes.plot([0, top], [0, top], color="grey", linestyle=":")
        axes.set_xlabel("entropy of the raters (bits)")
        axes.set_ylabel("entropy that the model predicts (bits)")
        axes.set_title(system.name)


def plot_confusion(system: System, path: Path) -> None:
    """Rows by the raters' plurality label and the model's, as shares of each of the raters' labels."""
    labels, counts = system.runs[0].score["labels"], np.array(system.score["confusion"], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.35 * len(labels)
    with picture(path, figsize=(size, size)) as (_, axes):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        if len(labels) <= 12:
            for (row, column), share in np.ndenumerate(shares):
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7)
        axes.set_xlabel("first label of the model")
        axes.set_ylabel("first label of the raters")
        axes.set_title(system.name)


def plot_training(logs: Sequence[tuple[str, Path]], path: Path) -> None:
    """Loss, reward of rollouts, and jsd on dev by step of every training log; what a log has of them.

    Args:
        logs: each with the name of its system; those of one have one colour.
        path: of the picture.
    """
    titles = {"loss": "loss", "reward": "reward of rollouts", "eval_jsd": "jsd on dev rows"}
    records = [
        (name, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]) for name, log in logs
    ]
    colours = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(name for name, _ in logs))}
    shown = [key for key in titles if key == "loss" or any(key in record for _, log in records for record in log)]
    with picture(path, 1, len(shown), figsize=(5 * len(shown), 4.5), squeeze=False, layout="constrained") as (
        figure,
        panels,
    ):
        for axes, key in zip(panels[0], shown, strict=True):
            for name, log in records:
                points = [(record["step"], float(record[key])) for record in log if key in record]
                if points:
                    marker = "o" if key == "eval_jsd" else None
                    axes.plot(*zip(*points, strict=True), color=colours[name], marker=marker, ms=3, lw=1)
            axes.set_xlabel("step")
            axes.set_ylabel(titles[key])
        figure.legend(
            [pyplot.Line2D([], [], color=colour) for colour in colours.values()],
            list(colours),
            loc="outside lower center",
            ncols=3,
            fontsize=8,
        )


def _errors(rows: Rows, column: str) -> list[list[float]]:
    """Lengths of error bars to the left and right of each value."""
    sides: list[list[float]] = [[], []]
    for _, found in rows:
        value = found[column]
        if value.get("low") is not None:
            ends = value["value"] - value["low"], value["high"] - value["value"]
        else:
            ends = (value.get("sd") or 0.0,) * 2
        for side, end in zip(sides, ends, strict=True):
            side.append(max(end, 0.0))
    return sides
