"""The pictures of docs/explained.md and docs/method.md, and the README's of the two example clips.

python scripts/method_pictures.py
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import shala_audio
from shala_audio.distribution import LabelDistribution

IMAGES = Path(__file__).parents[1] / "docs" / "images"
LABELS = ("angry", "disgusted", "neutral", "sad")


def bars(axes: Any, probs: list[float], title: str, other: list[float] | None = None) -> None:
    axes.bar(LABELS, probs, color="tab:cyan", label="model" if other else None)
    if other:
        axes.bar(LABELS, other, facecolor="none", edgecolor="black", label="raters")
    axes.set(ylim=(0, 1.05), title=title)
    axes.tick_params(axis="x", labelrotation=25, labelsize=8)


def main() -> None:
    clear, divided = [1.0, 0, 0, 0], [0.5, 0.4, 0.1, 0]
    figure, panels = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True, layout="constrained")
    bars(panels[0], clear, "clip 1, one label")
    bars(panels[1], clear, "clip 2, one label")
    bars(panels[2], clear, "clip 1, votes")
    bars(panels[3], divided, "clip 2, votes")
    figure.savefig(IMAGES / "idea_votes.png", dpi=110)
    human = LabelDistribution(LABELS, np.array(divided))
    figure, panels = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True, layout="constrained")
    for axes, stated in zip(
        panels, ([0.5, 0.4, 0.1, 0], [0.6, 0.3, 0.1, 0], [0.25] * 4, [0, 0.02, 0.08, 0.9]), strict=True
    ):
        distance = human.jsd(LabelDistribution(LABELS, np.array(stated)))
        bars(axes, stated, f"jsd {distance:.2f}", divided)
    panels[0].legend(fontsize=8)
    figure.savefig(IMAGES / "idea_distance.png", dpi=110)


# An emotion has one colour, as on the page.
PAGE_COLOURS = {
    "anger": "#cf3f3a",
    "disgust": "#5f9a3c",
    "fear": "#8663b5",
    "happy": "#c78f08",
    "neutral": "#7b8494",
    "sad": "#3573c0",
}


def clips() -> None:
    """What ten listeners said of the example clips (`shala_audio/assets/clips/README.md`), and what the default model says."""
    model = shala_audio.load()
    votes = {"clear": {"anger": 10}, "contested": {"sad": 4, "disgust": 3, "neutral": 3}}
    titles = {
        "clear": "A clear clip: all heard anger",
        "contested": "A contested clip: three answers, and the model sees it",
    }
    figure, panels = plt.subplots(2, 1, figsize=(9, 3.2), sharex=True, layout="constrained")
    for axes, (name, chosen) in zip(panels, votes.items(), strict=True):
        said = model.predict(shala_audio.example(name)).to_dict()
        rows = {"ten listeners": {label: n / 10 for label, n in chosen.items()}, "default model": said}
        order = sorted(said, key=lambda label: (-rows["ten listeners"].get(label, 0), -said[label]))
        for place, (who, shares) in enumerate(rows.items()):
            left = 0.0
            for label in order:
                share = shares.get(label, 0.0)
                axes.barh(place, share, left=left, height=0.75, color=PAGE_COLOURS[label], edgecolor="white")
                if share > 0.08:
                    words = f"{label} {10 * share:.0f}" if who == "ten listeners" else f"{label} {share:.0%}"
                    axes.text(left + share / 2, place, words, ha="center", va="center", color="white", fontsize=9)
                left += share
        axes.set_yticks([0, 1], list(rows))
        axes.set(xlim=(0, 1), title=titles[name])
        axes.title.set_ha("left")
        axes.title.set_x(0)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.savefig(IMAGES / "clips.png", dpi=110)


def drawn_answers() -> None:
    """The mean reward of drawn answers by prompts: the mean of three seeds on SNLI, and their range."""
    with open(IMAGES / "drawn_answers.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for name in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == name]
        prompts = sorted({int(row["prompts"]) for row in mine})
        rewards = np.array([[float(row["reward"]) for row in mine if int(row["prompts"]) == at] for at in prompts])
        axes.plot(prompts, rewards.mean(axis=1), marker=".", label=name)
        axes.fill_between(prompts, rewards.min(axis=1), rewards.max(axis=1), alpha=0.2)
    axes.set(xlabel="prompts", ylabel="mean reward of drawn answers")
    axes.legend(fontsize=8)
    figure.savefig(IMAGES / "drawn_answers.png", dpi=110)


def digit_gradients() -> None:
    """How far the mean gradient of some steps is from the true one, by the noise and the bias in `digit_gradients.csv`."""
    with open(IMAGES / "digit_gradients.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = np.geomspace(1, 1000, 50)
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for row in rows:
        bias = np.tan(np.arccos(float(row["cosine_to_group"])))
        label = {"group": "GRPO", "all_digits": "all_digits"}[row["estimator"]]
        axes.loglog(steps, np.hypot(float(row["noise"]) / np.sqrt(steps), bias), label=label)
    axes.set(xlabel="steps averaged, of 4 prompts and 8 answers", ylabel="distance / length")
    axes.legend(fontsize=8)
    figure.savefig(IMAGES / "digit_gradients.png", dpi=110)


if __name__ == "__main__":
    main()
    clips()
    drawn_answers()
    digit_gradients()
