"""The baseline a user would pick instead: one linear layer on the pooled encoder, with soft labels.

Each clip is the mean and the standard deviation over time of one encoder layer; a softmax regression learns the human
distributions by cross-entropy. The L2 penalty, the layer where several are cached, and whether to learn from the perturbed
augmentations of the training clips too, where there are any, are chosen on the dev split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shala_audio.audio.features import FeatureStore
from shala_audio.distribution import Floats, LabelDistribution, jsd
from shala_audio.errors import UserError
from shala_audio.manifest import Row
from shala_audio.task import Task
from shala_audio.votes import human_distributions

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class LinearResult:
    """Predictions of "dev" and "test", and what dev chose."""

    predictions: Mapping[str, list[tuple[str, LabelDistribution]]]
    layer: int
    penalty: float
    augmentations: int
    dev_jsd: float


def judged_splits(rows: Sequence[Row], task: Task) -> tuple[dict[str, list[Row]], dict[str, Floats]]:
    """Rows with votes of train, dev and test, and their human distributions.

    Raises:
        UserError: a split is missing.
    """
    splits = {name: [row for row in rows if row.split == name and row.votes] for name in ("train", "dev", "test")}
    if missing := [name for name, members in splits.items() if not members]:
        raise UserError(f"the manifest has no rows with votes in {', '.join(missing)}")
    return splits, {name: human_distributions(members, task.label_names) for name, members in splits.items()}


def named_predictions(
    splits: Mapping[str, Sequence[Row]], probs: Mapping[str, Floats], labels: tuple[str, ...]
) -> dict[str, list[tuple[str, LabelDistribution]]]:
    """Ids and distributions of the rows of each split that `probs` has (rows, K) of."""
    answers = {name: LabelDistribution.of_rows(labels, found) for name, found in probs.items()}
    return {
        name: [(row.id, answer) for row, answer in zip(splits[name], found, strict=True)]
        for name, found in answers.items()
    }


def pool(keys: Sequence[str], features: FeatureStore) -> Tensor:
    """(clips, S, 2 D): mean and standard deviation over time of every cached layer."""
    pooled = []
    for key in keys:
        states = features[key].float()
        pooled.append(torch.cat([states.mean(dim=1), states.std(dim=1, correction=0)], dim=-1))
    return torch.stack(pooled)


def fit(x: Tensor, p: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and bias (K,) of the softmax regression, by L-BFGS from zero."""
    weight = torch.zeros(p.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(p.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_q = (x @ weight.T + bias).log_softmax(dim=-1)
        loss = -(p * log_q).sum(dim=-1).mean() + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def train_linear(
    rows: Sequence[Row], features: FeatureStore, task: Task, layers: Sequence[int], augmentations: int = 0
) -> LinearResult:
    """Fit on train, choose on dev, predict dev and test.

    Args:
        rows, features, task: what to learn.
        layers: numbers of the cached ones.
        augmentations: of each training clip, to learn from too, if dev is better for it.

    Raises:
        UserError: a split is missing.
    """
    splits, human = judged_splits(rows, task)
    pooled = {name: pool([row.id for row in splits[name]], features) for name in ("dev", "test")}
    best: tuple[float, int, float, int, dict[str, Floats]] | None = None
    for count in sorted({0, augmentations}):
        keys_of = [[row.id, *features.augmentations(row.id, count)] for row in splits["train"]]
        target = torch.tensor(human["train"], dtype=torch.float32)
        target = target.repeat_interleave(torch.tensor([len(keys) for keys in keys_of]), dim=0)
        pooled["train"] = pool([key for keys in keys_of for key in keys], features)
        for index in range(len(layers)):
            mean, spread = pooled["train"][:, index].mean(dim=0), pooled["train"][:, index].std(dim=0) + 1e-6
            x = {name: (values[:, index] - mean) / spread for name, values in pooled.items()}
            for penalty in PENALTIES:
                weight, bias = fit(x["train"], target, penalty)
                q = {name: (x[name] @ weight.T + bias).double().softmax(dim=-1).numpy() for name in ("dev", "test")}
                distance = float(np.mean(jsd(human["dev"], q["dev"])))
                if best is None or distance < best[0]:
                    best = (distance, index, penalty, count, q)
    assert best is not None
    distance, index, penalty, count, probs = best
    named = named_predictions(splits, probs, task.label_names)
    return LinearResult(named, layers[index], penalty, count, distance)
