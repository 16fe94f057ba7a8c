"""How close predicted distributions come to human ones. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from shala_audio.data.votes import plurality
from shala_audio.distribution import (
    NATS_PER_BIT_ROOT,
    Floats,
    bhattacharyya,
    entropy,
    jsd,
    kl,
    total_variation,
)

FLOOR = 1e-6  # the least probability a prediction is given before KL, so that one zero does not make it infinite


def hard_measures(human: Floats, predicted: Floats) -> dict[str, Any]:
    """Accuracy, macro-F1, weighted-F1 and UAR against the plurality label.

    Rows whose first place is shared are left out and counted in `ties`. F1 and UAR are means over the labels that are
    the plurality of some row, as in `sklearn.metrics` with those labels given.

    Args:
        human, predicted: (rows, K).
    """
    winners = [plurality(people) for people in human]
    kept = np.array([winner is not None for winner in winners])
    measures: dict[str, Any] = {"ties": int((~kept).sum())}
    if not kept.any():
        return measures | {name: None for name in ("accuracy", "macro_f1", "weighted_f1", "uar")}
    truth = np.array([winner for winner in winners if winner is not None])
    answer = predicted[kept].argmax(axis=1)
    present = np.unique(truth)
    hits = np.array([np.sum((truth == label) & (answer == label)) for label in present], dtype=np.float64)
    actual = np.array([np.sum(truth == label) for label in present], dtype=np.float64)
    claimed = np.array([np.sum(answer == label) for label in present], dtype=np.float64)
    f1 = 2 * hits / (actual + claimed)
    return measures | {
        "accuracy": float(np.mean(truth == answer)),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float((f1 * actual).sum() / actual.sum()),
        "uar": float((hits / actual).mean()),
    }


def spearman(x: Floats, y: Floats) -> float | None:
    """Rank correlation, or None where one side is constant."""
    from scipy.stats import spearmanr

    if len(x) < 3 or np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return None
    return float(spearmanr(x, y).statistic)


def contested_auroc(human: Floats, predicted: Floats) -> float | None:
    """Area under the ROC curve of finding, by predicted entropy, the rows where no label has more than half of the votes.

    None where all rows are contested, or none is.
    """
    from scipy.stats import rankdata

    contested = human.max(axis=1) <= 0.5
    positives, negatives = int(contested.sum()), int((~contested).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(entropy(predicted))
    return float((ranks[contested].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def all_measures(human: Floats, predicted: Floats) -> dict[str, Any]:
    """Every measure of a set of predictions.

    `jsd` comes with a 95 % interval of its mean over rows (normal approximation, `low` and `high`).

    Args:
        human, predicted: (rows, K), one row or more.

    Returns:
        `n`, `jsd` {value, low, high}, and plain numbers: `jsd_nats`, `kl`, `total_variation`, `bhattacharyya`,
        `accuracy`, `macro_f1`, `weighted_f1`, `uar`, `ties`, `entropy_correlation`, `contested_auroc`.
    """
    distances = jsd(human, predicted)
    mean = float(distances.mean())
    spread = 1.96 * float(distances.std(ddof=1)) / np.sqrt(len(distances)) if len(distances) > 1 else 0.0
    floored = np.maximum(predicted, FLOOR)
    return {
        "n": len(human),
        "jsd": {"value": mean, "low": max(0.0, mean - spread), "high": min(1.0, mean + spread)},
        "jsd_nats": NATS_PER_BIT_ROOT * mean,
        "kl": float(kl(human, floored / floored.sum(axis=1, keepdims=True)).mean()),
        "total_variation": float(total_variation(human, predicted).mean()),
        "bhattacharyya": float(bhattacharyya(human, predicted).mean()),
        **hard_measures(human, predicted),
        "entropy_correlation": spearman(entropy(human), entropy(predicted)),
        "contested_auroc": contested_auroc(human, predicted),
    }
