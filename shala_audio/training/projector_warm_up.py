"""Give the projector a start: its tokens lean towards the words of what listeners heard.

A fresh projector feeds noise to the language model, which then learns for hundreds of steps to ignore it before it learns
to listen. So the projector is trained first, without the language model: the mean of a clip's tokens, multiplied with the
embeddings of the label words, is read as logits, and learns the human distribution by cross-entropy. That takes
seconds, and when the language model joins in, an angry clip already looks to it much like the word.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.data import Batcher
from shala_audio.training.objective import soft_cross_entropy

BATCH = 64  # clips


def word_embeddings(model: SpeechLM) -> Tensor:
    """(K, D) mean input embedding of each label word's tokens, less the mean over labels."""
    table = model.get_input_embeddings().weight.detach().float()
    words = [model.tokenizer(" " + label.word, add_special_tokens=False)["input_ids"] for label in model.task.labels]
    embeddings = torch.stack([table[tokens].mean(dim=0) for tokens in words])
    return embeddings - embeddings.mean(dim=0)


def pooled_logits(projector: nn.Module, audio: dict[str, Tensor], words: Tensor) -> Tensor:
    """(B, K): the mean of each clip's tokens times the label words' embeddings."""
    tokens, counts = projector(audio["audio_features"], audio["audio_lengths"])
    valid = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
    mean = (tokens * valid[..., None]).sum(dim=1) / counts[:, None]
    return mean @ words.T


def warm_up_projector(
    model: SpeechLM, dataset: Dataset, batcher: Batcher, epochs: int, learning_rate: float, seed: int
) -> list[float]:
    """Train the projector alone; return the mean loss of every epoch, in nats.

    Args:
        model: whose projector is trained, in place.
        dataset: rows as `build_dataset` makes them.
        batcher: finds their features.
        epochs: passes over the rows.
        learning_rate: peak, reached after a tenth of the steps and falling to nothing.
        seed: of the order of rows.
    """
    projector = model.model.projector
    assert projector is not None
    device = projector.layer_logits.device
    words = word_embeddings(model).to(device)
    human = torch.tensor(dataset["human"], dtype=torch.float32, device=device)
    bias = nn.Parameter(human.mean(dim=0).clamp(min=1e-4).log())  # the prior is the head's business, not the tokens'
    optimizer = torch.optim.AdamW([*projector.parameters(), bias], learning_rate, weight_decay=0.01)
    batches = -(-len(dataset) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * batches, pct_start=0.1
    )
    order = torch.Generator().manual_seed(seed)
    losses = []
    projector.train()
    with tqdm(total=epochs * batches, unit="step", desc="projector", disable=None) as bar:
        for _ in range(epochs):
            total = 0.0
            for indices in torch.randperm(len(dataset), generator=order).split(BATCH):
                rows: list[dict[str, Any]] = [dataset[int(index)] for index in indices]
                audio = {name: tensor.to(device) for name, tensor in batcher.audio(rows).items()}
                log_q = (pooled_logits(projector, audio, words) + bias).log_softmax(dim=-1)
                loss = soft_cross_entropy(human[indices], log_q).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
                bar.update()
            losses.append(total / len(dataset))
    return losses
