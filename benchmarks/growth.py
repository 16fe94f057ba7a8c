"""How the cost of a training step grows: with the rows (direct objective) and with the rollouts of a prompt (slots)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.training_sides import train_ours
from benchmarks.turns import take_turns
from shala_audio.io import atomic_write, write_text

ROWS, GROUPS, PROMPTS = (4, 8, 16, 32), (2, 4, 8, 16), 4


def step_seconds() -> tuple[list[float], list[float]]:
    """Median seconds of a direct step of so many rows, and of a `slots` step of so many rollouts for each of 4 prompts."""
    exact = {f"exact, {rows} rows": partial(train_ours, readout="label_token", prompts=rows) for rows in ROWS}
    slots = {
        f"slots, G = {group}": partial(train_ours, readout="slots", prompts=PROMPTS, group=group) for group in GROUPS
    }
    by_rows = take_turns(exact, 3)
    by_group = take_turns(slots, 3)
    return (
        [rows / median(by_rows[name].rates) for name, rows in zip(exact, ROWS, strict=True)],
        [PROMPTS / median(by_group[name].rates) for name in slots],
    )


def draw_growth(out: Path) -> None:
    """Write `cost_by_rows.png`, `cost_by_rollouts.png` and `cost.csv`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_rows, by_group = step_seconds()
    lines = ["step,size,seconds"]
    for name, sizes, seconds, label in (
        ("rows", ROWS, by_rows, "rows in a step of the direct objective"),
        ("rollouts", GROUPS, by_group, f"rollouts G of each of {PROMPTS} prompts in a slots step"),
    ):
        lines += [f"{name},{size},{value:.3f}" for size, value in zip(sizes, seconds, strict=True)]
        figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
        axes.plot(sizes, seconds, "o-", label="measured")
        axes.plot([0, sizes[-1]], [0, seconds[0] * sizes[-1] / sizes[0]], ":", color="gray", label="in proportion")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("seconds")
        axes.legend()
        with atomic_write(out / f"cost_by_{name}.png") as beside:
            figure.savefig(beside, dpi=120, format="png")
        plt.close(figure)
    write_text(out / "cost.csv", "\n".join(lines) + "\n")
