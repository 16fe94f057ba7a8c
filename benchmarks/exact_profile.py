"""Where the time of an exact training step goes, by kind of operation, as a Markdown table.

python -m benchmarks.exact_profile
"""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from benchmarks.training_sides import PROMPTS, our_trainer
from shala_audio.models.config import load_model_config

STEPS = 3


def kind(event: Any, rank: int) -> str:
    """What a profiled operation is for."""
    if event.key in ("aten::mm", "aten::addmm"):
        small = any(rank in shape for shape in event.input_shapes)
        return "matrix products of LoRA" if small else "matrix products with the weights"
    if "attention" in event.key or event.key in ("aten::bmm", "aten::baddbmm", "aten::_softmax"):
        return "attention"
    if event.key in ("aten::mul", "aten::add", "aten::add_"):
        return "products and sums of single numbers: norms, rotations, activations"
    return "everything else: views, copies, the optimizer, the trainer"


class Watch(TrainerCallback):
    """Profiles all steps after the first, and then stops the training."""

    def __init__(self) -> None:
        self.profiled = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            self.profiled.start()
        if state.global_step == 1 + STEPS:
            self.profiled.stop()
            control.should_training_stop = True


def main() -> None:
    if torch.accelerator.is_available():
        raise SystemExit("this profile is of a CPU's operations; run it where there is no accelerator")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(folder, "label_token", PROMPTS)
        trainer.add_callback(watch)
        trainer.train()
    rank = load_model_config("text").lora_r
    seconds: Counter[str] = Counter()
    for event in watch.profiled.key_averages(group_by_input_shape=True):
        seconds[kind(event, rank)] += event.self_cpu_time_total / 1e6 / STEPS
    total = sum(seconds.values())
    print(f"| a step of the direct objective of {PROMPTS} prompts | seconds | share |\n|---|---|---|")
    for name, value in seconds.most_common():
        print(f"| {name} | {value:.2f} | {value / total:.0%} |")


if __name__ == "__main__":
    main()
