"""The noise and the bias of two gradients of what drawn `slots` answers earn: GRPO's, and that of every digit (`all_digits`).

A batch of `mini_text` rows is answered again and again by the default text model; each time the same answers give both
gradients. GRPO's, with a leave-one-out baseline and without division by the spread, has no bias, so the mean of many is what
the other is compared with. All means and norms are freed of the noise that is left in them. Writes `digit_gradients.csv`:

- noise: standard deviation of a step's gradient, over the length of its mean; a step of an estimator with half the noise is
  worth four of the other's;
- cosine: between the means of both. What `all_digits` leaves out turns it away from 1.

    python -m benchmarks.digit_gradients --out docs/images --draws 60        # a quarter of an hour on two cores
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shala_audio.corpora.mini import prepare
from shala_audio.io import write_text
from shala_audio.models.config import load_model_config
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.slots import Slots
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import load_task
from shala_audio.training.rewards import earned, every_digit
from shala_audio.votes import human_distributions

ROWS, GROUP = 4, 8
ESTIMATORS = ("group", "all_digits")


class Sums:
    """What the mean of gradients and their spread follow from, without keeping any of them."""

    def __init__(self) -> None:
        self.count = 0
        self.totals: dict[str, Tensor] = {}
        self.products = dict.fromkeys([("group", "group"), ("group", "all_digits"), ("all_digits", "all_digits")], 0.0)

    def add(self, gradients: dict[str, Tensor]) -> None:
        self.count += 1
        for name, gradient in gradients.items():
            self.totals[name] = self.totals[name] + gradient if self.count > 1 else gradient.clone()
        for one, other in self.products:
            self.products[one, other] += float(gradients[one] @ gradients[other])

    def squared_mean(self, name: str) -> float:
        found = self.of_means(name, name)
        if found <= 0:
            raise SystemExit(f"{name}: {self.count} draws are too few to tell its mean from noise; take more --draws")
        return found

    def of_means(self, one: str, other: str) -> float:
        """Product of the true means: that over pairs of different draws, whose noise is independent."""
        together = float(self.totals[one] @ self.totals[other]) - self.products[one, other]
        return together / (self.count * (self.count - 1))

    def noise(self, name: str) -> float:
        mean = self.squared_mean(name)
        return ((self.products[name, name] / self.count - mean) / mean) ** 0.5

    def cosine(self) -> float:
        lengths = [self.squared_mean(name) ** 0.5 for name in ESTIMATORS]
        return self.of_means(*ESTIMATORS) / float(np.prod(lengths))


def gradients_of_draws(draws: int) -> Sums:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = prepare(Path(folder), seed=0, rows=ROWS, text=True).rows
    model = SpeechLM.build(load_model_config("text"), load_task("mini_text"), "slots")
    readout = model.readout
    assert isinstance(readout, Slots)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # away from zero, so that both of LoRA's factors have a gradient
            torch.nn.init.normal_(parameter, std=0.02)
    model.train_as_policy()
    parameters = [p for p in model.parameters() if p.requires_grad]
    builder = PromptBuilder(model)
    prompts = builder.batch([builder.prompt(row.text, None) for row in rows])
    human = np.repeat(human_distributions(rows, model.task.label_names), GROUP, axis=0)
    which = torch.arange(ROWS).repeat_interleave(GROUP)
    sums = Sums()
    for _ in tqdm(range(draws), unit="draw", disable=None):
        with torch.no_grad():
            answers = torch.tensor(readout.rollouts(prompts, GROUP, 1.0).completions)
        digits = readout.digits(answers.tolist())
        rewards = torch.tensor(earned("jsd", human, readout.stated(answers.tolist()), 0.0)).float().view(ROWS, GROUP)
        advantages = ((rewards - rewards.mean(dim=1, keepdim=True)) * GROUP / (GROUP - 1)).flatten()
        judged = torch.tensor(every_digit("jsd", human, digits)).float()
        batch = {
            "input_ids": torch.cat([prompts["input_ids"][which], answers], dim=1),
            "attention_mask": torch.cat([prompts["attention_mask"][which], torch.ones_like(answers)], dim=1),
        }
        log_probs, _ = readout.digit_log_probs(batch, rows=which)
        drawn = log_probs.gather(2, torch.tensor(digits).flatten(1)[:, :, None])[:, :, 0]
        earnings = {
            "group": (advantages[:, None] * drawn).sum(dim=1).mean(),
            "all_digits": (log_probs.exp() * judged).sum(dim=(1, 2)).mean(),
        }
        found = {}
        for name, value in earnings.items():
            parts = torch.autograd.grad(value, parameters, retain_graph=name == ESTIMATORS[0])
            found[name] = torch.cat([part.flatten() for part in parts]).double()
        sums.add(found)
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--draws", type=int, default=100, help="how often the batch is answered")
    given = parser.parse_args()
    sums = gradients_of_draws(given.draws)
    lines = ["estimator,noise,cosine_to_group,draws"]
    for name, cosine in (("group", 1.0), ("all_digits", sums.cosine())):
        lines.append(f"{name},{sums.noise(name):.3f},{cosine:.3f},{sums.count}")
    write_text(given.out / "digit_gradients.csv", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
