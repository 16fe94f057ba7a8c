"""Every setting of `shala-audio train`: fields of a YAML file, each also a flag."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from trl import GRPOConfig

from shala_audio.files import read_json

METHODS = ("zero_shot", "warm_start", "shala")


@cache
def bf16_slowdown() -> float:
    """How many times longer this CPU takes for a matrix product in bfloat16 than in float32, measured once.

    A CPU without instructions for bfloat16 (AVX2 alone) computes it some 80 times slower, one with them twice as fast.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] / seconds[torch.float32]


@dataclass
class ShalaConfig(GRPOConfig):
    """TRL's `GRPOConfig` (and so transformers' `TrainingArguments`), and what SHALA adds."""

    task: str | None = field(default=None, metadata={"help": "Task: a name in configs/tasks, or a YAML file."})
    manifest: str | None = field(default=None, metadata={"help": "Manifest whose `train` rows are learnt from."})
    features: str | None = field(
        default=None, metadata={"help": "Folder that `shala-audio features` made, for tasks with sound."}
    )
    model: str | None = field(default=None, metadata={"help": "Model: a name in configs/models, or a YAML file."})
    init: str | None = field(
        default=None,
        metadata={"help": "Folder of a trained model to go on from, instead of `task`, `model`, `readout`."},
    )
    method: str = field(default="shala", metadata={"help": f"One of {', '.join(METHODS)}."})
    readout: str = field(
        default="label_token", metadata={"help": "label_token, slots or verbalized; that of `init`, if it is given."}
    )
    ambiguity: str = field(default="static", metadata={"help": "Ambiguity weights: static or off."})
    ambiguity_lambda: float = field(default=0.5, metadata={"help": "How much ambiguous rows count for, 0 to 1."})
    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the projector; `learning_rate` where it is not set."}
    )
    projector_epochs: int = field(
        default=0, metadata={"help": "Warm start of a task with sound: passes that train the projector alone, first."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest checkpoint in `output_dir`."})

    # Defaults that differ from TRL's, for the models and machines that the recipes are made for.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations to save memory."})
    report_to: str = field(default="none", metadata={"help": "Where to log: none, tensorboard, wandb, trackio."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints to keep."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.06, metadata={"help": "Steps, or share of all steps below 1, of warm-up."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: rows carry more than text."})

    def __post_init__(self) -> None:
        self.use_cpu: bool = self.use_cpu or not torch.accelerator.is_available()  # transformers wants it said for bf16
        if self.bf16 is None:
            self.bf16 = not self.fp16  # TRL's own default, made explicit
        if self.bf16 and self.use_cpu and bf16_slowdown() > 1:
            print(f"bf16: {bf16_slowdown():.0f} times slower than float32 on this CPU; float32 is used", file=sys.stderr)
            self.bf16 = False
        if self.init and (Path(self.init) / "shala.json").is_file():
            self.readout = read_json(Path(self.init) / "shala.json")["readout"]
        if self.method != "shala" or self.readout == "label_token":
            # No rollouts: whatever the batch, let it count as one group, so that TRL's checks of groups pass.
            rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
            self.steps_per_generation = self.gradient_accumulation_steps * (2 if rows == 1 else 1)
            self.num_generations = max(rows, 2)
        super().__post_init__()
