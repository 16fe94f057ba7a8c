"""Calibration after training: a map from stated to calibrated distributions, fitted on the dev split. No torch.

- **temperature**: q ∝ p^(1/T), one number (Guo et al. 2017, arXiv 1706.04599).
- **temperature_jsd**: the same, but T brings the mean Jensen-Shannon distance down.
- **dirichlet**: q = softmax(W log p + b), a matrix and a vector, with a penalty on what lies off W's diagonal and on b
  (Kull et al. 2019, arXiv 1910.12656). The penalty is chosen among five by cross-validation within the dev split.

The first and the last minimise the cross-entropy with the raters' distributions, a proper score: least where the model states
the mean of what may be, over votes not cast and over rows that look alike to it. The expected distance is not proper. It is
often least for something sharper than that mean, where votes are few or little is known of the row. So after
`temperature_jsd` answers are nearer to the votes, and no longer an estimate of what people would say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from shala_audio.distribution import FLOOR, Floats, jsd
from shala_audio.errors import UserError, not_one_of
from shala_audio.evaluation.stats import cluster_ids
from shala_audio.io import read_json

KINDS = ("temperature", "temperature_jsd", "dirichlet")
LOWEST, HIGHEST = 0.02, 50.0  # of 1 / T, the ends of the search
SCALES = np.geomspace(LOWEST, HIGHEST, 81)  # 1 is one of them; for a loss that may have several valleys
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """A fitted map.

    Attributes:
        kind: one of `KINDS`.
        weight: (K, K); for a temperature, the identity over T.
        bias: (K,); 0 for a temperature.
        labels: the K labels in order.
        rows: how many it was fitted on.
        penalty: what cross-validation chose; 0 for a temperature.
        floor: probabilities below it count as it.
    """

    kind: str
    weight: Floats
    bias: Floats
    labels: tuple[str, ...]
    rows: int
    penalty: float = 0.0
    floor: float = FLOOR

    def __call__(self, probs: Floats) -> Floats:
        """Calibrated distributions, (rows, K) to (rows, K).

        >>> Calibration("temperature", np.eye(2) / 2.0, np.zeros(2), ("a", "b"), 9)(np.array([[0.8, 0.2]])).round(3).tolist()
        [[0.667, 0.333]]
        """
        return softmax(_log(probs, self.floor) @ self.weight.T + self.bias, axis=1)

    @property
    def at_the_edge(self) -> bool:
        """Whether a temperature ended where its search does: a better one may lie beyond, and predictions are nearly one-hot
        or nearly uniform."""
        return self.kind != "dirichlet" and is_at_the_edge(1 / float(self.weight[0, 0]))

    def to_dict(self) -> dict[str, Any]:
        """As it is stored in a model's folder."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "weight": self.weight.tolist(),
            "bias": self.bias.tolist(),
            "rows": self.rows,
            "penalty": self.penalty,
            "floor": self.floor,
        }


def fit(
    kind: str, predicted: Floats, human: Floats, labels: tuple[str, ...], groups: Sequence[str] = ()
) -> Calibration:
    """Fit a map on dev rows.

    Args:
        kind: one of `KINDS`.
        predicted, human: (rows, K).
        labels: the K labels in order.
        groups: speaker or premise of every row; those of one stay together where the penalty is cross-validated, unless
            they are too few or one has most of the rows.

    Raises:
        UserError: an unknown kind, or too few rows to cross-validate.
    """
    if kind in ("temperature", "temperature_jsd"):
        find = _fit_temperature if kind == "temperature" else _fit_temperature_jsd
        scale = find(_log(predicted), human)
        return Calibration(kind, np.eye(len(labels)) * scale, np.zeros(len(labels)), labels, len(human))
    if kind != "dirichlet":
        raise not_one_of("calibration", kind, KINDS)
    if len(human) < 2 * FOLDS:
        raise UserError(f"dirichlet calibration needs {2 * FOLDS} dev rows or more; there are {len(human)}")
    logs = _log(predicted)
    cluster = cluster_ids(groups) if groups else np.arange(len(human))
    if cluster.max() + 1 <= FOLDS or np.bincount(cluster).max() > len(human) / 2:
        cluster = np.arange(len(human))
    fold = (np.random.default_rng(0).permutation(cluster.max() + 1) % FOLDS)[cluster]

    def held_out(penalty: float) -> float:
        losses, sizes = [], np.bincount(fold)
        for index in range(FOLDS):
            weight, bias = _fit_dirichlet(logs[fold != index], human[fold != index], penalty)
            losses.append(_cross_entropy(logs[fold == index] @ weight.T + bias, human[fold == index]))
        return float(np.average(losses, weights=sizes))

    penalty = min(PENALTIES, key=held_out)
    weight, bias = _fit_dirichlet(logs, human, penalty)
    return Calibration(kind, weight, bias, labels, len(human), penalty)


def load_calibration(path: str, labels: tuple[str, ...]) -> Calibration:
    """Read a stored map.

    Raises:
        UserError: missing, not a calibration, or of other labels.
    """
    fields: Mapping[str, Any] = read_json(path)
    try:
        found = Calibration(
            fields["kind"],
            np.array(fields["weight"], dtype=np.float64),
            np.array(fields["bias"], dtype=np.float64),
            tuple(fields["labels"]),
            int(fields["rows"]),
            float(fields["penalty"]),
            float(fields.get("floor", 1e-4)),  # of the version that did not write it
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a calibration ({error!r})") from None
    count = len(labels)
    if found.labels != labels or found.weight.shape != (count, count) or found.bias.shape != (count,):
        raise UserError(f"{path}: a calibration of other labels than the model's; fit it anew")
    return found


def is_at_the_edge(temperature: float) -> bool:
    """Whether a temperature is within 2 % of an end of its search.

    >>> is_at_the_edge(0.0201), is_at_the_edge(1.0), is_at_the_edge(50.0)
    (True, False, True)
    """
    return not LOWEST * 1.02 < 1 / temperature < HIGHEST / 1.02


def fitted_temperature(folder: Path, kind: str = "temperature_jsd") -> tuple[float, int] | None:
    """T of a system's folder, and the rows that it was fitted on; None where there is none."""
    path = folder / f"calibration_{kind}.json"
    if not path.is_file() or not kind.startswith("temperature"):
        return None
    found = read_json(path)
    return 1 / found["weight"][0][0], found["rows"]


def _log(probs: Floats, floor: float = FLOOR) -> Floats:
    return np.log(np.maximum(probs, floor))


def _cross_entropy(logits: Floats, human: Floats) -> float:
    return float(-(human * log_softmax(logits, axis=1)).sum(axis=1).mean())


def _fit_temperature(logs: Floats, human: Floats) -> float:
    """1 / T, by bounded search; the loss is convex in it."""
    from scipy.optimize import minimize_scalar

    return float(
        minimize_scalar(lambda scale: _cross_entropy(logs * scale, human), bounds=(LOWEST, HIGHEST), method="bounded").x
    )


def _fit_temperature_jsd(logs: Floats, human: Floats) -> float:
    """1 / T: the best of a grid, and the bounded search between its neighbours."""
    from scipy.optimize import minimize_scalar

    def distance(scale: float) -> float:
        return float(jsd(human, softmax(logs * scale, axis=1)).mean())

    distances = np.array([distance(scale) for scale in SCALES])
    least = np.flatnonzero(distances <= distances.min() + 1e-12)  # all of them, where every answer is uniform
    best = int(least[np.argmin(np.abs(np.log(SCALES[least])))])
    around = SCALES[max(best - 1, 0)], SCALES[min(best + 1, len(SCALES) - 1)]
    between = float(minimize_scalar(distance, bounds=around, method="bounded").x)
    return between if distance(between) < distances[best] else float(SCALES[best])


def _fit_dirichlet(logs: Floats, human: Floats, penalty: float) -> tuple[Floats, Floats]:
    """W (K, K) and b (K,) by L-BFGS from the identity, with the exact gradient."""
    from scipy.optimize import minimize

    count = logs.shape[1]
    off = 1.0 - np.eye(count)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weight, bias = flat[: count**2].reshape(count, count), flat[count**2 :]
        logits = logs @ weight.T + bias
        error = (softmax(logits, axis=1) - human) / len(human)
        gradient = np.concatenate(
            [(error.T @ logs + 2 * penalty * off * weight).ravel(), error.sum(axis=0) + 2 * penalty * bias]
        )
        size = penalty * (np.square(weight * off).sum() + np.square(bias).sum())
        return _cross_entropy(logits, human) + size, gradient

    start = np.concatenate([np.eye(count).ravel(), np.zeros(count)])
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return flat[: count**2].reshape(count, count), flat[count**2 :]
