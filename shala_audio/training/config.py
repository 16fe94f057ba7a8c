"""Every setting of `shala-audio train`: fields of a YAML file, each also a flag."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from trl import GRPOConfig

from shala_audio.cores import accelerator_computes_bf16, bf16_slowdown
from shala_audio.errors import UserError, not_one_of
from shala_audio.files import read_json
from shala_audio.training.ambiguity import AmbiguitySettings
from shala_audio.training.methods import METHODS, idle_weights, without_part

GROUPED = ("num_generations", "scale_rewards", "steps_per_generation")  # rollouts have them, whatever the reward


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
    modality: str | None = field(
        default=None,
        metadata={"help": "What goes in, where the task's prompt has a choice: audio, text or audio+text."},
    )
    reward: str = field(
        default="jsd", metadata={"help": "Of sampled answers or labels: jsd, bhattacharyya, brier or majority."}
    )
    invalid_reward: float = field(default=0.0, metadata={"help": "What an answer that does not parse earns."})
    exact_loss: str = field(
        default="divergence",
        metadata={
            "help": "Of label_token: the JS divergence; its root, the distance; or off: labels are drawn and rewarded, as "
            "in GRPO."
        },
    )
    attribute_weight: float = field(
        default=0.0,
        metadata={
            "help": "Of label_token: learn the task's attributes (arousal ...) beside the distribution, with this weight of "
            "1 - CCC in the loss. The warm start decides whether there is a head for them."
        },
    )
    target: str = field(
        default="soft", metadata={"help": "Supervised methods learn the distribution (soft) or its first label (hard)."}
    )
    patience_without_signal: int = field(
        default=50,
        metadata={"help": "Batches in a row whose rollouts all earned the same, that stop a run; 0 for never."},
    )
    few_shot_examples: int = field(default=4, metadata={"help": "Answered rows in the prompt of few_shot."})
    ambiguity: str = field(
        default="static", metadata={"help": "Ambiguity weights: static, dynamic (follow what is unlearnt) or off."}
    )
    ambiguity_lambda: float = field(default=0.5, metadata={"help": "How much ambiguous rows count for, 0 to 1."})
    ambiguity_lambda_end: float | None = field(
        default=None,
        metadata={"help": "What ambiguity_lambda moves to, along a line, until training ends; it stays where not set."},
    )
    ambiguity_entropy: str = field(
        default="plugin", metadata={"help": "Estimator of the raters' entropy: plugin, miller_madow or dirichlet."}
    )
    ambiguity_alpha: float = field(default=0.5, metadata={"help": "Votes that dirichlet adds to every label."})
    ambiguity_memory: float = field(
        default=0.5, metadata={"help": "Of dynamic weights: share of the old value in a row's running 1 - reward."}
    )
    ambiguity_sampling: bool = field(
        default=False, metadata={"help": "Draw rows in proportion to their weight, instead of weighting them."}
    )
    ear_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the ear (projector and all); `learning_rate` where not set."}
    )
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the encoder's layers that are trained; `ear_learning_rate` where not set."}
    )
    ear_epochs: int = field(
        default=0, metadata={"help": "Warm start of a task with sound: passes that train the ear alone, first."}
    )
    copies: int = field(
        default=0,
        metadata={"help": "Perturbed copies of each clip to hear in turn, of those that `features --copies` has made."},
    )
    skip_bad: bool = field(
        default=False, metadata={"help": "Leave out rows whose sound is bad and so has no features, and say how many."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the newest checkpoint in `output_dir`."})

    # Defaults that differ from TRL's, for the models and machines that the recipes are made for.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations to save memory."})
    report_to: str = field(
        default="auto",
        metadata={
            "help": "Where to log: tensorboard, wandb, trackio or none; auto is tensorboard where it is installed."
        },
    )
    watch_dev: int = field(
        default=3, metadata={"help": "How often in a run the model is asked about (at most 32) dev rows; 0 for never."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints to keep."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.06, metadata={"help": "Steps, or share of all steps below 1, of warm-up."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: rows carry more than text."})

    def __post_init__(self) -> None:
        self.use_cpu: bool = self.use_cpu or not torch.accelerator.is_available()  # transformers wants it said for bf16
        # None is TRL's default, and means yes unless fp16 is on.
        self.bf16: bool | None = not self.fp16 if self.bf16 is None else self.bf16
        if self.bf16 and self.use_cpu:
            run = Path(str(self.output_dir)) / "run.json"
            began = read_json(run).get("precision") if self.resume and run.is_file() else None
            if began is not None:
                self.bf16 = began == "bf16"  # whatever a machine that is busier or less so would be timed at now
            elif bf16_slowdown() > 1:
                slower = f"{bf16_slowdown():.0f} times slower than float32 on this CPU"
                print(f"bf16: {slower}; float32 is used", file=sys.stderr)
                self.bf16 = False
        elif self.bf16 and not accelerator_computes_bf16():
            print("bf16: this GPU has no instructions for it; float32 is used", file=sys.stderr)
            self.bf16 = False
        if self.report_to == "auto":
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.watch_dev < 0:
            raise UserError(f"watch_dev is {self.watch_dev}; use 0 or more")
        if self.method not in METHODS:
            raise not_one_of("method", self.method, METHODS)
        for name in ("ambiguity", "exact_loss"):
            if getattr(self, name) is False:  # as YAML reads `off`
                setattr(self, name, "off")
        self.overruled: dict[str, object] = {}  # what the method sets otherwise than it was given
        for name, value in METHODS[self.method].settings.items():
            found = getattr(self, name)
            if found != value:
                self.overruled[name] = found
            if found not in (value, type(self).__dataclass_fields__[name].default):
                print(f"method {self.method}: {name} is {value}, not {found}", file=sys.stderr)
            setattr(self, name, value)
        for name, choices in {"target": ("soft", "hard"), "exact_loss": ("divergence", "distance", "off")}.items():
            if getattr(self, name) not in choices:
                raise not_one_of(name, getattr(self, name), choices)
        if self.init and (Path(self.init) / "shala.json").is_file():
            self.readout = read_json(Path(self.init) / "shala.json")["readout"]
        if self.readout not in METHODS[self.method].readouts:
            allowed = " or ".join(METHODS[self.method].readouts)
            raise UserError(f"method {self.method} goes with readout {allowed}, not {self.readout}")
        if self.method == "shala_exact" and self.exact_loss == "off":
            raise UserError(
                "exact_loss is off, which leaves out what method shala_exact is; use divergence or distance"
            )
        grouped: list[str] = []  # settings of rollouts that were given, where there are none
        group = self.num_generations
        reinforced = METHODS[self.method].loss == "reinforced"
        draws_labels = reinforced and self.readout == "label_token" and self.exact_loss == "off"
        self.without_rollouts: frozenset[str] = frozenset()  # settings that are ours alone then, for TRL to accept
        if not reinforced or self.readout == "label_token":
            defaults = type(self).__dataclass_fields__
            names = ("steps_per_generation",) if draws_labels else GROUPED
            self.without_rollouts = frozenset({*names, "generation_batch_size"})
            grouped = [name for name in names if getattr(self, name) != defaults[name].default]
            # TRL generates nothing: whatever the batch, let it count as one group, so that TRL's checks of groups pass.
            rows = self.per_device_train_batch_size * self.gradient_accumulation_steps
            self.steps_per_generation = self.gradient_accumulation_steps * (2 if rows == 1 else 1)
            self.num_generations: int = max(rows, 2)
        super().__post_init__()
        if draws_labels:
            if group < 2:
                raise UserError(
                    f"num_generations is {group}; labels are compared within a prompt's group: use 2 or more"
                )
            self.num_generations = group
        self._check_idle(grouped)

    def _check_idle(self, grouped: list[str]) -> None:
        """Refuse settings that the method would not read. Where methods that do read them may share the file, it is said, and
        `idle` names them.

        Args:
            grouped: settings of rollouts that were given, where there are none.
        """
        self.idle: list[str] = []
        loss = METHODS[self.method].loss
        if loss == "none":
            return
        defaults = type(self).__dataclass_fields__
        of_method = METHODS[self.method].settings

        def given(names: Iterable[str]) -> list[str]:
            others = sorted(set(names) - of_method.keys())
            return [name for name in others if getattr(self, name) not in (defaults[name].default, None)]

        unread = given(without_part(self.method, self.readout, self.exact_loss) - set(grouped))
        if unread and loss == "reinforced":
            what = f"{', '.join(unread)}: no part in method {self.method} with readout {self.readout}"
            raise UserError(f"{what}; leave it out, or take another readout")
        weights = given(idle_weights(self.ambiguity, self.ambiguity_entropy)) if loss == "reinforced" else []
        self.idle = unread + grouped + weights
        if unread or grouped:
            what = f"method {self.method} with readout {self.readout}"
            print(f"{', '.join(unread + grouped)}: no part in {what}", file=sys.stderr)
        if weights:
            kind = f"ambiguity {self.ambiguity} and ambiguity_entropy {self.ambiguity_entropy}"
            print(f"{', '.join(weights)}: no part with {kind}", file=sys.stderr)

    def ambiguity_settings(self) -> AmbiguitySettings:
        """The fields `ambiguity*`, gathered."""
        return AmbiguitySettings(
            self.ambiguity,
            self.ambiguity_lambda,
            self.ambiguity_lambda_end,
            self.ambiguity_entropy,
            self.ambiguity_alpha,
            self.ambiguity_memory,
            self.ambiguity_sampling,
        )
