"""A stronger classifier on the frozen encoder: learnt layer weights, attentive statistics pooling, one linear layer.

Attention weights over time are learnt for every clip, and mean and deviation are taken under them (Okabe et al. 2018, arXiv
1803.10963); soft labels by cross-entropy. Learning rate, number of passes, and whether the augmentations of the training
clips are taken in turn, where there are any, are chosen on the dev split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from shala_audio.audio.features import FeatureStore, pad_features
from shala_audio.baselines.linear import Fitted, judged_splits, named_predictions
from shala_audio.devices import default_device
from shala_audio.distribution import Floats, jsd
from shala_audio.manifest import Row
from shala_audio.models.audio_adapter import AttentiveStatistics
from shala_audio.task import Task
from shala_audio.training.data import visit_order

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
EPOCHS, PATIENCE, BATCH, DROPOUT = 30, 6, 32, 0.3


class AttentivePooling(nn.Module):
    """(B, S, T, D) features and (B,) lengths to (B, K) log-probabilities.

    Args:
        layers: S; width: D of the encoder; labels: K.
        mean, spread: (D,) of the training frames, for normalisation.
    """

    def __init__(self, layers: int, width: int, labels: int, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(layers))
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.statistics = AttentiveStatistics(width)
        self.norm, self.dropout = nn.LayerNorm(2 * width), nn.Dropout(DROPOUT)
        self.linear = nn.Linear(2 * width, labels)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        frames = torch.einsum("s,bstd->btd", self.layer_logits.softmax(dim=0), features)
        frames = (frames - self.mean) / self.spread
        pooled = self.dropout(self.norm(self.statistics(frames, lengths)))
        return self.linear(pooled).log_softmax(dim=-1)


def train_attentive(
    rows: Sequence[Row], features: FeatureStore, task: Task, seed: int = 0, augmentations: int = 0
) -> Fitted:
    """Fit on train, choose on dev, predict dev and test.

    Args:
        rows, features, task: what to learn.
        seed: of the weights and of the order of the rows.
        augmentations: augmentations of each training clip to take in turn with it, if dev is better for it.

    Raises:
        UserError: a split is missing.
    """
    splits, human = judged_splits(rows, task)
    clips = {name: _Clips([[row.id] for row in members], features) for name, members in splits.items()}
    with_augmentations = _Clips(
        [[row.id, *features.augmentations(row.id, augmentations)] for row in splits["train"]], features
    )
    mean, spread = clips["train"].moments()
    layers, _, width = features[splits["train"][0].id].shape
    device = default_device()
    target = torch.tensor(human["train"], dtype=torch.float32, device=device)
    lengths = [features.frames(row.id) for row in splits["train"]]
    tried = [(rate, count) for count in sorted({0, augmentations}) for rate in LEARNING_RATES]
    best: tuple[float, float, int, int, dict[str, Floats]] | None = None
    with tqdm(total=len(tried) * EPOCHS, unit="pass", desc="attentive", disable=None) as bar:
        for rate, count in tried:
            train = with_augmentations if count else clips["train"]
            torch.manual_seed(seed)
            model = AttentivePooling(layers, width, len(task.labels), mean, spread).to(device)
            optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
            since = 0
            lowest: float | None = None
            for epoch in range(EPOCHS):
                model.train()
                order = visit_order(lengths, BATCH, seed, epoch)
                for start in range(0, len(order), BATCH):
                    chosen = order[start : start + BATCH]
                    loss = F.cross_entropy(model(*train.batch(chosen, epoch)), target[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                bar.update()
                on_dev = _predict(model, clips["dev"])
                distance = float(np.mean(jsd(human["dev"], on_dev)))
                since = 0 if lowest is None or distance < lowest else since + 1
                lowest = distance if lowest is None else min(lowest, distance)
                if best is None or distance < best[0]:
                    probs = {"dev": on_dev, "test": _predict(model, clips["test"])}
                    best = (distance, rate, epoch + 1, count, probs)
                if since >= PATIENCE:
                    bar.update(EPOCHS - epoch - 1)
                    break
    assert best is not None
    distance, rate, epochs, count, probs = best
    named = named_predictions(splits, probs, task.label_names)
    return Fitted(named, {"learning_rate": rate, "passes": epochs, "augmentations": count}, distance)


@dataclass(frozen=True)
class _Clips:
    """Features of some rows, read from the cache as they are needed: a corpus need not fit into memory.

    Attributes:
        keys: of each row's clip and of its augmentations, of which every pass takes the next.
    """

    keys: list[list[str]]
    features: FeatureStore

    def batch(self, chosen: Sequence[int], epoch: int = 0) -> tuple[Tensor, Tensor]:
        """(B, S, T, D) and (B,) of some of them, as a pass takes them."""
        keys = [self.keys[index][(index + epoch) % len(self.keys[index])] for index in chosen]
        features, lengths = pad_features([self.features[key].float() for key in keys])
        return features.to(default_device()), lengths.to(default_device())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of all frames, averaged over layers."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for clip, *_ in self.keys:
            frames = self.features[clip].float().mean(dim=0).double()
            count, total, squares = count + len(frames), total + frames.sum(dim=0), squares + frames.square().sum(dim=0)
        mean = total / count
        return mean.float(), ((squares / count - mean.square()).clamp(min=0).sqrt() + 1e-6).float()


@torch.inference_mode()
def _predict(model: AttentivePooling, clips: _Clips) -> Floats:
    """(clips, K) probabilities."""
    model.eval()
    numbers = range(len(clips.keys))
    found = [model(*clips.batch(numbers[start : start + BATCH])) for start in range(0, len(numbers), BATCH)]
    return torch.cat(found).double().exp().cpu().numpy()
