"""How noisy are GRPO's and `all_digits`' gradients of the same drawn answers, and do they point the same way?

From a model with readout `slots`, the same prompts are answered again and again, `GROUP` times each, always with fresh draws. Each
time both gradients of the expected reward (1 - jsd) are taken; GRPO's without dividing by the group's spread, times G / (G - 1), which
makes it unbiased. Of each estimator: its variance over the squared length of its mean, corrected for the mean's own noise; and the
cosine of its mean to GRPO's.

    python -m benchmarks.digit_gradients MODEL MANIFEST --out benchmarks/digit_gradients.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shala_audio.manifest import read_manifest
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.base import append_completions
from shala_audio.models.readouts.slots import Slots, digit_log_probs
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.rewards import earned, every_digit
from shala_audio.votes import human_distributions

PROMPTS, GROUP, REPETITIONS = 4, 8, 32


def gradients(model: SpeechLM, batch: dict[str, Tensor], human: np.ndarray) -> dict[str, Tensor]:
    """Flat gradients of the expected reward by each estimator, from one draw of answers."""
    readout = model.readout
    assert isinstance(readout, Slots)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        completions = readout.rollouts(batch, GROUP, 1.0).completions
    answers = torch.tensor(completions)
    repeated = {name: tensor.repeat_interleave(GROUP, dim=0) for name, tensor in batch.items()}
    rows = np.repeat(human, GROUP, axis=0)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = digit_log_probs(model, readout.template, append_completions(repeated, answers), 1.0)
    digits = torch.as_tensor(readout.digits(completions))
    drawn = log_probs.gather(-1, digits.reshape(*log_probs.shape[:-1], 1)).squeeze(-1).sum(dim=1)
    reward = torch.tensor(earned("jsd", rows, readout.stated(completions), 0.0), dtype=torch.float32)
    advantage = (reward.view(-1, GROUP) - reward.view(-1, GROUP).mean(dim=1, keepdim=True)) * GROUP / (GROUP - 1)
    every = torch.tensor(every_digit("jsd", rows, digits.numpy(), GROUP, 0.0), dtype=torch.float32)
    expected = (log_probs.exp() * every).sum(dim=-1).sum(dim=1)
    half = expected.view(-1, GROUP)[:, : GROUP // 2]
    aims = {
        "grpo": (advantage.flatten() * drawn).mean(),
        "all_digits": expected.mean(),
        "all_digits, half": half.mean(),
    }
    found = {}
    for number, (name, aim) in enumerate(aims.items(), start=1):
        parts = torch.autograd.grad(aim, parameters, retain_graph=number < len(aims))
        found[name] = torch.cat([part.flatten() for part in parts])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model = SpeechLM.from_pretrained(given.model).eval()
    rows = [row for row in read_manifest(given.manifest) if row.votes and row.split == "train"][:PROMPTS]
    builder = PromptBuilder(model)
    batch = builder.batch([builder.prompt(row.text, None) for row in rows])
    human = human_distributions(rows, model.task.label_names)
    torch.manual_seed(0)
    total: dict[str, Tensor] = {}
    squares: dict[str, float] = {}
    for _ in tqdm(range(REPETITIONS), unit="draw", disable=None):
        for name, gradient in gradients(model, batch, human).items():
            total[name] = total.get(name, 0) + gradient.double()
            squares[name] = squares.get(name, 0.0) + float(gradient.double().square().sum())
    lines = ["estimator,answers,relative_variance,cosine_to_grpo"]
    for name, whole in total.items():
        mean = whole / REPETITIONS
        variance = (squares[name] / REPETITIONS - float(mean.square().sum())) * REPETITIONS / (REPETITIONS - 1)
        signal = float(mean.square().sum()) - variance / REPETITIONS
        cosine = float(torch.nn.functional.cosine_similarity(whole, total["grpo"], dim=0))
        answers = PROMPTS * GROUP // (2 if "half" in name else 1)
        lines.append(f"{name},{answers},{variance / signal:.3f},{cosine:.3f}")
    given.out.write_text("\n".join(lines) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
