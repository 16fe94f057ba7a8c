"""Adapter pretraining: tokens of sound lean towards the words of the labels that listeners chose.

A fresh projector feeds noise to the language model, which then learns for hundreds of steps to ignore it before it learns
to use it. So the audio adapter is trained first, without the language model: the mean of a clip's tokens, and its summary
token if there is one, are multiplied with the embeddings of the label words; read as logits, both learn the human
distribution by cross-entropy. That takes a small part of the time, and when the language model joins in, an angry clip is
already much like the word to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from shala_audio.errors import UserError
from shala_audio.io import atomic_write
from shala_audio.models.audio_adapter import AudioAdapter, valid_frames
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.callbacks import check_loss
from shala_audio.training.config import DirectConfig
from shala_audio.training.data import Batcher, curriculum_ranks, visit_order
from shala_audio.training.trainer import part_learning_rates

log = logging.getLogger(__name__)

BATCH = 32  # clips
KEPT_EVERY = 50  # steps; some minutes on a CPU


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


class Kept:
    """A file of what was learnt so far, `NAME` in a run's folder until that ends.

    Args:
        out: the run's folder.
        run: what it depends on; that of another one is not gone on from.
    """

    NAME = "adapter_pretraining.safetensors"

    def __init__(self, out: Path, run: Mapping[str, Any]) -> None:
        self.path = out / self.NAME
        self.run = hashlib.sha256(json.dumps(run, sort_keys=True, default=str).encode()).hexdigest()

    def check(self, resume: bool) -> bool:
        """Whether there is something to go on from.

        Raises:
            UserError: there is, but of another run, or it is not to be resumed.
        """
        if not self.path.is_file():
            return False
        if not resume:
            raise UserError(
                f"{self.path}: of a run that was interrupted; --resume continues it, or remove it to start afresh"
            )
        with safe_open(self.path, "pt") as file:
            if file.metadata()["run"] != self.run:
                raise UserError(
                    f"{self.path}: of a run with other settings; remove it to start afresh, or use the settings it had"
                )
        return True

    def write(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        """Keep parameters and their moments (Adam), with the losses of the steps that were done."""
        state = {"losses": torch.tensor(losses, dtype=torch.float64)}
        for number, parameter in enumerate(parameters):
            state[f"{number}.value"] = parameter.detach().contiguous()
            state |= {f"{number}.{name}": value.contiguous() for name, value in optimizer.state[parameter].items()}
        with atomic_write(self.path) as beside:
            save_file(state, beside, metadata={"run": self.run})

    def restore(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[float]:
        """Put parameters and moments back; return the losses of the steps that were done, none where there is no file."""
        if not self.path.is_file():
            return []
        state = load_file(self.path)
        losses: list[float] = state.pop("losses").tolist()
        for name, value in state.items():
            number, _, what = name.partition(".")
            parameter = parameters[int(number)]
            if what == "value":
                parameter.data.copy_(value)
            else:  # AdamW counts steps on the CPU
                optimizer.state[parameter][what] = value if what == "step" else value.to(parameter.device)
        return losses


def pretrain_adapter(
    model: SpeechLM, dataset: Dataset, batcher: Batcher, config: DirectConfig, kept: Kept | None = None
) -> list[float]:
    """Train the audio adapter alone; return the mean loss of every pass, in nats.

    Args:
        model: whose audio adapter is trained, in place.
        dataset: rows as `build_dataset` makes them.
        batcher: finds their features.
        config: `adapter_epochs` passes, at `adapter_learning_rate` and `encoder_learning_rate`, which are reached after a
            tenth of the steps and then fall to nothing; `seed` of the order of rows; `curriculum` of the first pass.
        kept: what was learnt so far, which is gone on from, and is written every `KEPT_EVERY` steps and at the end.

    Raises:
        Stopped: the loss is NaN or infinite.
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
    # Clips at once. A step is of BATCH however many fit, but mixes and masks them by the part.
    together = min(BATCH, config.per_device_train_batch_size)
    losses = [] if kept is None else kept.restore(parameters, optimizer)  # of each step
    done = len(losses)
    adapter.train()
    with tqdm(total=steps, initial=done, unit="step", desc="adapter", disable=None) as bar:
        for step in range(done, steps):
            batcher.epoch, number = divmod(step, batches)
            if number == 0 or step == done:
                order = visit_order(dataset["length"], BATCH, config.seed, batcher.epoch, ranks)
            # Masked frames are drawn anew at each step, and the same ones where a run goes on.
            torch.manual_seed(zlib.crc32(f"{config.seed} {step}".encode()))
            share = min((step + 1) / warm, (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))) / 2)
            for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = share * rate
            indices = order[number * BATCH : (number + 1) * BATCH]
            rows: list[dict[str, Any]] = [dataset[int(index)] for index in indices]
            optimizer.zero_grad()
            total = 0.0
            for at in range(0, len(rows), together):
                audio, target, weight = batcher.learnt(batcher.augmented(rows[at : at + together]))
                audio = {name: tensor.to(device) for name, tensor in audio.items()}
                with torch.autocast(device.type, torch.bfloat16, enabled=bool(config.bf16)):
                    logits = pooled_logits(adapter, audio, words, rows_of_head)
                target, weight = target.to(device), weight.to(device)
                of_places = [F.cross_entropy(each.float() + bias, target, reduction="none") for each in logits]
                loss = (weight * torch.stack(of_places)).mean(dim=0).sum()
                (loss / len(rows)).backward()
                total += loss.item()
            where = f"adapter pretraining, step {step + 1}"
            check_loss(total / len(rows), where, "a lower adapter_learning_rate, or bf16 false")
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(total)
            bar.update()
            if (
                kept is not None
                and config.process_index == 0
                and (len(losses) % KEPT_EVERY == 0 or len(losses) == steps)
            ):
                kept.write(parameters, optimizer, losses)
            if number + 1 == batches and config.process_index == 0:
                log.info("adapter: pass %d, loss %.3f", batcher.epoch + 1, sum(losses[-batches:]) / len(dataset))
    return [sum(losses[at : at + batches]) / len(dataset) for at in range(0, steps, batches)]
