"""The baseline a user would pick instead: one linear layer on a frozen model's pooled states, with soft labels.

A clip is the mean and the standard deviation over time of one layer of the audio encoder, a text those over the tokens of one
layer of the language model. A softmax regression learns the human distributions by cross-entropy. The L2 penalty, the layer, and
whether to learn from the perturbed augmentations of the training clips too, where there are any, are chosen on the dev split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.features import FeatureStore
from shala_audio.devices import computes_bf16
from shala_audio.distribution import Floats, LabelDistribution, jsd
from shala_audio.errors import UserError
from shala_audio.manifest import Row
from shala_audio.models.config import ModelConfig
from shala_audio.models.pretrained import load_language_model
from shala_audio.task import Task
from shala_audio.votes import human_distributions

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
TEXTS = 32  # read at once


@dataclass(frozen=True)
class Fitted:
    """A classifier's predictions of "dev" and "test"; the settings that dev chose, by name; and the mean jsd there."""

    predictions: Mapping[str, list[tuple[str, LabelDistribution]]]
    chosen: Mapping[str, float]
    dev_jsd: float


def judged_splits(rows: Sequence[Row], task: Task) -> tuple[dict[str, list[Row]], dict[str, Floats]]:
    """Rows of train and dev with votes, and all of test, whose votes may be withheld; human distributions of train and dev.

    Raises:
        UserError: a split is missing.
    """
    splits = {name: [row for row in rows if row.split == name and row.votes] for name in ("train", "dev")}
    human = {name: human_distributions(members, task.label_names) for name, members in splits.items() if members}
    splits["test"] = [row for row in rows if row.split == "test"]
    if missing := [name for name, members in splits.items() if not members]:
        raise UserError(f"the manifest has no rows of {', '.join(missing)}, of train and dev with votes")
    return splits, human


def named_predictions(
    splits: Mapping[str, Sequence[Row]], probs: Mapping[str, Floats], labels: tuple[str, ...]
) -> dict[str, list[tuple[str, LabelDistribution]]]:
    """Ids and distributions of the rows of each split that `probs` has (rows, K) of."""
    named = {}
    for name, found in probs.items():
        identities = [row.id for row in splits[name]]
        named[name] = list(zip(identities, LabelDistribution.of_rows(labels, found), strict=True))
    return named


class PooledClips:
    """Mean and standard deviation over time of every cached layer of the audio encoder."""

    def __init__(self, features: FeatureStore, layers: Sequence[int]) -> None:
        self.features, self.layers = features, list(layers)
        self.augmentations = features.augmentations

    def __call__(self, keys: Sequence[str]) -> Tensor:
        """(clips, S, 2 D) float32."""
        states = (self.features[key].float() for key in keys)
        return torch.stack([torch.cat([one.mean(dim=1), one.std(dim=1, correction=0)], dim=-1) for one in states])


class PooledTexts:
    """Mean and standard deviation over the tokens of what is asked, at a quarter, half, three quarters and all of a language
    model's layers.

    Args:
        rows: whose texts are read, all at once.
        task: its prompt, without a chat template.
        config: whose language model is asked.
        device: where to compute.

    Raises:
        UserError: the model cannot be loaded, or a text is missing or too long for it.
    """

    def __init__(self, rows: Sequence[Row], task: Task, config: ModelConfig, device: str = "cpu") -> None:
        held: Literal["auto"] | torch.dtype = "auto" if computes_bf16(torch.device(device).type) else torch.float32
        model, self._tokenizer, _, _ = load_language_model(
            config.lm, "", held, bool(config.audio_projector), config.weights == "4bit"
        )
        self._decoder = model.get_decoder().to(device).eval()
        depth = model.config.get_text_config().num_hidden_layers
        self.layers = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)})
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        texts = {row.id: task.question(row.text) for row in rows}
        if empty := next((key for key, text in texts.items() if not text), None):
            raise UserError(f"row {empty}: has no text")
        self._pooled: dict[str, Tensor] = {}
        order = sorted(texts, key=lambda key: len(texts[key]))
        with tqdm(total=len(order), unit="row", desc="states", disable=None) as bar:
            for start in range(0, len(order), TEXTS):
                keys = order[start : start + TEXTS]
                self._pooled |= dict(zip(keys, self._states([texts[key] for key in keys]), strict=True))
                bar.update(len(keys))

    @torch.inference_mode()
    def _states(self, texts: list[str]) -> Tensor:
        batch = self._tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        if self._longest and batch["input_ids"].shape[1] > self._longest:
            raise UserError(
                f"a text of {batch['input_ids'].shape[1]:,} tokens; the language model takes {self._longest:,}"
            )
        device = self._decoder.device
        mask = batch["attention_mask"].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device.type)):
            found = self._decoder(
                input_ids=batch["input_ids"].to(device),
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        weight = mask[:, None, :, None] / mask.sum(dim=1)[:, None, None, None]
        states = torch.stack([found[layer] for layer in self.layers], dim=1).float()
        mean = (weight * states).sum(dim=2)
        deviation = (weight * (states - mean[:, :, None]).square()).sum(dim=2).sqrt()
        return torch.cat([mean, deviation], dim=-1).cpu()

    def __call__(self, keys: Sequence[str]) -> Tensor:
        """(texts, S, 2 D) float32."""
        return torch.stack([self._pooled[key] for key in keys])

    def augmentations(self, _key: str, _most: int) -> list[str]:
        """Of texts there are none."""
        return []


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
    rows: Sequence[Row], pooled_of: PooledClips | PooledTexts, task: Task, augmentations: int = 0
) -> Fitted:
    """Fit on train, choose on dev, predict dev and test.

    Args:
        rows, pooled_of, task: what to learn, and from what.
        augmentations: of each training clip, to learn from too, if dev is better for it.

    Raises:
        UserError: a split is missing.
    """
    splits, human = judged_splits(rows, task)
    pooled = {name: pooled_of([row.id for row in splits[name]]) for name in ("dev", "test")}
    best: tuple[float, int, float, int, dict[str, Floats]] | None = None
    for count in sorted({0, augmentations}):
        keys_of = [[row.id, *pooled_of.augmentations(row.id, count)] for row in splits["train"]]
        target = torch.tensor(human["train"], dtype=torch.float32)
        target = target.repeat_interleave(torch.tensor([len(keys) for keys in keys_of]), dim=0)
        pooled["train"] = pooled_of([key for keys in keys_of for key in keys])
        for index in range(len(pooled_of.layers)):
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
    settings = {"layer": pooled_of.layers[index], "penalty": penalty, "augmentations": count}
    return Fitted(named, settings, distance)
