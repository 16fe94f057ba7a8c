"""Adapter pretraining: tokens of sound lean towards the words of the labels that listeners chose.

A fresh projector feeds noise to the language model, which then learns for hundreds of steps to ignore it before it learns
to use it. So the audio adapter is trained first, without the language model: the mean of a clip's tokens, and its summary
token if there is one, are multiplied with the embeddings of the label words; read as logits, both learn the human
distribution by cross-entropy. That takes a small part of the time, and when the language model joins in, an angry clip is
already much like the word to it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from shala_audio.models.audio_adapter import AudioAdapter, valid_frames
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.config import DirectConfig
from shala_audio.training.data import Batcher, curriculum_ranks, visit_order
from shala_audio.training.trainer import part_learning_rates

BATCH = 32  # clips


def word_embeddings(model: SpeechLM, output: bool = False) -> Tensor:
    """(K, D) mean embedding of each label word's tokens, or with `output` of the head's rows, less the mean over labels."""
    table = (model.lm_head if output else model.get_input_embeddings()).weight.detach().float()
    words = [model.tokenizer(" " + label.word, add_special_tokens=False)["input_ids"] for label in model.task.labels]
    embeddings = torch.stack([table[tokens].mean(dim=0) for tokens in words])
    return embeddings - embeddings.mean(dim=0)


def pooled_logits(adapter: AudioAdapter, audio: dict[str, Tensor], words: Tensor, rows: Tensor) -> list[Tensor]:
    """(B, K) each: the mean of a clip's tokens times the label words' embeddings, and its summary token, if it has one, times
    their rows in the head, which is what reads it."""
    tokens, counts = adapter(audio["audio_features"], audio["audio_lengths"])
    summaries = []
    if adapter.summary is not None:
        summaries, tokens, counts = [tokens[:, 0]], tokens[:, 1:], counts - 1
    valid = valid_frames(tokens.shape[1], counts)
    mean = (tokens * valid[..., None]).sum(dim=1) / counts[:, None]
    return [mean @ words.T, *(summary @ rows.T for summary in summaries)]


def pretrain_adapter(model: SpeechLM, dataset: Dataset, batcher: Batcher, config: DirectConfig) -> list[float]:
    """Train the audio adapter alone; return the mean loss of every pass, in nats.

    Args:
        model: whose audio adapter is trained, in place.
        dataset: rows as `build_dataset` makes them.
        batcher: finds their features.
        config: `adapter_epochs` passes, at `adapter_learning_rate` and `encoder_learning_rate`, which are reached after a
            tenth of the steps and then fall to nothing; `seed` of the order of rows; `curriculum` of the first pass.
    """
    adapter = model.model.audio_adapter
    assert adapter is not None
    device = adapter.layer_logits.device
    words, rows_of_head = (word_embeddings(model, output).to(device) for output in (False, True))
    human = torch.tensor(dataset["human"], dtype=torch.float32, device=device)
    ranks = curriculum_ranks(dataset) if config.curriculum else None
    bias = nn.Parameter(human.mean(dim=0).clamp(min=1e-4).log())  # the prior is the head's business, not the tokens'
    parts, rates = model.trained_parts(), part_learning_rates(config)
    groups = [([bias, *parts["audio adapter"]], rates["audio adapter"])]
    if "encoder" in parts:
        groups.append((parts["encoder"], rates["encoder"]))
    parameters = [parameter for members, _ in groups for parameter in members]
    optimizer = torch.optim.AdamW([{"params": members, "lr": rate} for members, rate in groups], weight_decay=0.01)
    batches = -(-len(dataset) // BATCH)
    steps = config.adapter_epochs * batches
    warm = max(1, steps // 10)

    def share(step: int) -> float:
        return min((step + 1) / warm, (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    losses = []
    adapter.train()
    with tqdm(total=steps, unit="step", desc="adapter", disable=None) as bar:
        for epoch in range(config.adapter_epochs):
            batcher.epoch = epoch
            total = 0.0
            order = visit_order(dataset["length"], BATCH, config.seed, epoch, ranks)
            for start in range(0, len(order), BATCH):
                indices = order[start : start + BATCH]
                rows: list[dict[str, Any]] = [dataset[int(index)] for index in indices]
                audio, target, weight = batcher.learnt(batcher.augmented(rows))
                audio = {name: tensor.to(device) for name, tensor in audio.items()}
                with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16)):
                    logits = pooled_logits(adapter, audio, words, rows_of_head)
                target, weight = target.to(device), weight.to(device)
                of_places = [F.cross_entropy(each.float() + bias, target, reduction="none") for each in logits]
                loss = (weight * torch.stack(of_places)).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
                bar.update()
            losses.append(total / len(dataset))
    return losses
