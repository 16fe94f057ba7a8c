"""Every setting of `shala-audio train`: fields of a YAML file, each also a flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from trl import GRPOConfig

from shala_audio.files import read_json

METHODS = ("zero_shot", "warm_start", "shala")


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
        if self.init and (Path(self.init) / "shala.json").is_file():
            self.readout = read_json(Path(self.init) / "shala.json")["readout"]
        if self.method != "shala" or self.readout == "label_token":
            # No rollouts: whatever the batch, let it count as one group, so that TRL's checks of groups pass.
            rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
            self.steps_per_generation = self.gradient_accumulation_steps * (2 if rows == 1 else 1)
            self.num_generations = max(rows, 2)
        super().__post_init__()
