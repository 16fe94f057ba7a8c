"""Give the ear a start: its tokens lean towards the words of what listeners heard.

A fresh projector feeds noise to the language model, which then learns for hundreds of steps to ignore it before it learns
to listen. So the ear is trained first, without the language model: the mean of a clip's tokens, multiplied with the
embeddings of the label words, is read as logits, and learns the human distribution by cross-entropy. That takes a small
part of the time, and when the language model joins in, an angry clip already looks to it much like the word.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from shala_audio.models.ear import Ear
from shala_audio.models.projector import valid_frames
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import ShalaConfig
from shala_audio.training.data import Batcher
from shala_audio.training.objective import soft_cross_entropy
from shala_audio.training.sampling import visit_order
from shala_audio.training.speech_trainer import learning_rate

BATCH = 16  # clips


def word_embeddings(model: SpeechLM) -> Tensor:
    """(K, D) mean input embedding of each label word's tokens, less the mean over labels."""
    table = model.get_input_embeddings().weight.detach().float()
    words = [model.tokenizer(" " + label.word, add_special_tokens=False)["input_ids"] for label in model.task.labels]
    embeddings = torch.stack([table[tokens].mean(dim=0) for tokens in words])
    return embeddings - embeddings.mean(dim=0)


def pooled_logits(ear: Ear, audio: dict[str, Tensor], words: Tensor) -> Tensor:
    """(B, K): the mean of each clip's tokens times the label words' embeddings."""
    tokens, counts = ear(audio["audio_features"], audio["audio_lengths"])
    valid = valid_frames(tokens.shape[1], counts)
    mean = (tokens * valid[..., None]).sum(dim=1) / counts[:, None]
    return mean @ words.T


def warm_up_ear(model: SpeechLM, dataset: Dataset, batcher: Batcher, config: ShalaConfig) -> list[float]:
    """Train the ear alone; return the mean loss of every pass, in nats.

    Args:
        model: whose ear is trained, in place.
        dataset: rows as `build_dataset` makes them.
        batcher: finds their features.
        config: `ear_epochs` passes, at `ear_learning_rate` and `encoder_learning_rate`, which are reached after a tenth of
            the steps and then fall to nothing; `seed` of the order of rows.
    """
    ear = model.model.ear
    assert ear is not None
    device = ear.layer_logits.device
    words = word_embeddings(model).to(device)
    human = torch.tensor(dataset["human"], dtype=torch.float32, device=device)
    bias = nn.Parameter(human.mean(dim=0).clamp(min=1e-4).log())  # the prior is the head's business, not the tokens'
    groups: dict[float, list[nn.Parameter]] = {learning_rate("ear", config): [bias]}
    for name, parameter in ear.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(learning_rate(f"ear.{name}", config), []).append(parameter)
    parameters = [parameter for members in groups.values() for parameter in members]
    optimizer = torch.optim.AdamW(
        [{"params": members, "lr": rate} for rate, members in groups.items()], weight_decay=0.01
    )
    batches = -(-len(dataset) // BATCH)
    steps = config.ear_epochs * batches
    warm = max(1, steps // 10)

    def share(step: int) -> float:
        return min((step + 1) / warm, (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    losses = []
    ear.train()
    with tqdm(total=steps, unit="step", desc="ear", disable=None) as bar:
        for epoch in range(config.ear_epochs):
            batcher.epoch = epoch
            total = 0.0
            order = visit_order(dataset["length"], BATCH, config.seed, epoch)
            for start in range(0, len(order), BATCH):
                indices = order[start : start + BATCH]
                rows: list[dict[str, Any]] = [dataset[int(index)] for index in indices]
                audio = {name: tensor.to(device) for name, tensor in batcher.audio(batcher.hear(rows)).items()}
                log_q = (pooled_logits(ear, audio, words) + bias).log_softmax(dim=-1)
                loss = soft_cross_entropy(human[indices], log_q).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
                bar.update()
            losses.append(total / len(dataset))
    return losses
