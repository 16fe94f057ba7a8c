"""Every setting of `shala-audio train`, and the methods that `--method` chooses, on one code path.

A setting is a field of a YAML file and a flag. A method says which trainer learns: supervised learning and SHALA's direct
objective draw nothing (`DirectConfig`); answers that are drawn have TRL's settings too (`GrpoConfig`). Every trained method
starts from a base model. Reinforced ones go on from a warm start; `sft_soft` and `sft_hard` spend the same passes on
supervised learning instead, so that all have the same budget.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from trl import GRPOConfig

from shala_audio.devices import accelerator_computes_bf16, bf16_slowdown
from shala_audio.errors import UserError, nearest, not_one_of
from shala_audio.io import read_json, read_yaml
from shala_audio.models.folder import SETTINGS
from shala_audio.models.readouts import READOUTS
from shala_audio.training.ambiguity import AmbiguitySettings
from shala_audio.training.rewards import REWARDS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """How a method learns.

    Attributes:
        what: one line for a person.
        learns: "nothing"; "supervised"; "shala": by the direct objective, or by drawn answers where the readout draws; or
            "grpo": by drawn answers.
        settings: what it sets, over the configuration file.
    """

    what: str
    learns: str
    settings: Mapping[str, Any] = field(default_factory=dict)


STOCK = {"advantage": "group", "group_reward": 0.0}  # GRPO as it is published, whatever a recipe's file has for SHALA
METHODS: dict[str, Method] = {
    "zero_shot": Method("the base model as it is", "nothing"),
    "few_shot": Method("the base model with a few answered training rows in its prompt (text only)", "nothing"),
    "warm_start": Method("a short supervised stage on human distributions", "supervised", {"target": "soft"}),
    "sft_hard": Method("supervised learning of the plurality label", "supervised", {"target": "hard"}),
    "sft_soft": Method("supervised learning of human distributions", "supervised", {"target": "soft"}),
    "grpo_majority": Method(
        "GRPO, rewarded for the plurality label",
        "grpo",
        {"target": "soft", "ambiguity": "off", "reward": "majority", **STOCK},
    ),
    "grpo_jsd": Method(
        "GRPO, rewarded by 1 - jsd, all rows alike",
        "grpo",
        {"target": "soft", "ambiguity": "off", "reward": "jsd", **STOCK},
    ),
    "shala": Method("SHALA as the configuration says", "shala", {"target": "soft"}),
    "shala_unweighted": Method("SHALA without ambiguity weights", "shala", {"target": "soft", "ambiguity": "off"}),
    "shala_dynamic": Method(
        "SHALA, ambiguous rows that are not learnt yet count for more",
        "shala",
        {"target": "soft", "ambiguity": "dynamic"},
    ),
}
METHOD_ALIASES = {"shala_exact": "shala", "shala_static": "shala"}  # names of one run, of earlier versions
OLD_SETTINGS = {  # names of earlier versions, still taken
    "exact_loss": "direct_loss",
    "ear_learning_rate": "adapter_learning_rate",
    "ear_epochs": "adapter_epochs",
    "copies": "augmentations",
    "ambiguity_memory": "ambiguity_decay",
    "patience_without_signal": "zero_variance_patience",
    "watch_dev": "dev_evaluations",
}
# Of answers written freely.
GENERATION_SETTINGS = ("top_p", "top_k", "min_p", "invalid_reward", "brevity_reward", "max_completion_length")
WEIGHT_SETTINGS = ("ambiguity_lambda", "ambiguity_entropy", "ambiguity_alpha", "ambiguity_decay")


def precision_dtype(args: TrainingArguments) -> torch.dtype:
    """The type that products are computed in."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def draws_answers(method: str, readout: str) -> bool:
    """Whether a method learns from answers that are drawn, with this readout.

    >>> draws_answers("shala", "label_token"), draws_answers("shala", "slots"), draws_answers("grpo_jsd", "label_token")
    (False, True, True)
    """
    learns = METHODS[method].learns
    return learns == "grpo" or (learns == "shala" and not READOUTS[readout].is_direct)


def _readout(init: str | None, asked: str | None) -> str:
    """The readout of a run: the one that is asked for, or that of the model it starts from."""
    start = Path(init) / SETTINGS if init else None
    own = str(read_json(start)["readout"]) if start is not None and start.is_file() else "label_token"
    readout = asked or own
    if readout not in READOUTS:
        raise not_one_of("readout", readout, READOUTS)
    return readout


def unread_settings(config: DirectConfig | GrpoConfig) -> frozenset[str]:
    """Names of settings that the method, with this readout and start, does not read."""
    if METHODS[config.method].learns == "supervised":
        unread = {"ambiguity", "direct_loss", *WEIGHT_SETTINGS}
    else:
        unread = {"adapter_epochs", *(WEIGHT_SETTINGS if config.ambiguity == "off" else ())}
        unread |= {"ambiguity_decay"} if config.ambiguity == "static" else set()
        unread |= {"ambiguity_alpha"} if config.ambiguity_entropy != "dirichlet" else set()
    if config.init:
        unread |= {"adapter_epochs", "modality"}
    if isinstance(config, GrpoConfig):
        unread |= {"attribute_weight"}  # drawn answers say nothing of attributes
        if READOUTS[config.readout].thinks:  # answers learn where no thought does
            unread |= {"zero_variance_patience"}
        if not READOUTS[config.readout].writes_freely:
            unread |= set(GENERATION_SETTINGS)
    return frozenset(unread)


@dataclass
class SpeechConfig:
    """What both configurations have beside transformers' `TrainingArguments`."""

    task: str | None = field(default=None, metadata={"help": "Task: a name in configs/tasks, or a YAML file."})
    manifest: str | None = field(default=None, metadata={"help": "Manifest whose `train` rows are learnt from."})
    features: str | None = field(
        default=None, metadata={"help": "Folder that `shala-audio features` made, for tasks with sound."}
    )
    model: str | None = field(default=None, metadata={"help": "Model: a name in configs/models, or a YAML file."})
    init: str | None = field(
        default=None,
        metadata={"help": "Folder of a trained model to start from, instead of `task` and `model`."},
    )
    method: str = field(default="shala", metadata={"help": f"One of {', '.join(METHODS)}."})
    readout: str = field(
        default="",
        metadata={"help": f"{', '.join(READOUTS)}; that of `init`, or label_token, where not set."},
    )
    modality: str | None = field(
        default=None,
        metadata={"help": "What goes in, where the task's prompt has a choice: audio, text or audio+text."},
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
    few_shot_examples: int = field(default=4, metadata={"help": "Answered rows in the prompt of few_shot."})
    ambiguity: str = field(
        default="static", metadata={"help": "Ambiguity weights: static, dynamic (follow the running loss) or off."}
    )
    ambiguity_lambda: float = field(default=0.5, metadata={"help": "How much ambiguous rows count for, 0 to 1."})
    ambiguity_entropy: str = field(
        default="plugin", metadata={"help": "Estimator of the raters' entropy: plugin, miller_madow or dirichlet."}
    )
    ambiguity_alpha: float = field(default=0.5, metadata={"help": "Votes that dirichlet adds to every label."})
    ambiguity_decay: float = field(
        default=0.5, metadata={"help": "Of dynamic weights: share of the old value in a row's running 1 - reward."}
    )
    adapter_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the audio adapter (projector and all); `learning_rate` where not set."},
    )
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the encoder's trained layers; `adapter_learning_rate` where not set."}
    )
    adapter_epochs: int = field(
        default=0, metadata={"help": "Warm start of a task with sound: passes of adapter pretraining, first."}
    )
    augmentations: int = field(
        default=0,
        metadata={"help": "Augmentations of each clip to take in turn, of those that `features --augmentations` made."},
    )
    skip_bad: bool = field(
        default=False, metadata={"help": "Leave out rows whose sound is bad and so has no features, and say how many."}
    )
    resume: bool = field(default=False, metadata={"help": "Resume from the newest checkpoint in `output_dir`."})
    dev_evaluations: int = field(
        default=3, metadata={"help": "How often in a run the model predicts (at most 32) dev rows; 0 for never."}
    )

    # Defaults that differ from transformers' and TRL's, for the models and machines that the recipes are made for.
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations to save memory."})
    report_to: str = field(
        default="auto",
        metadata={
            "help": "Where to log: tensorboard, wandb, trackio or none; auto is tensorboard where it is installed."
        },
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Compute products in bfloat16; where the machine is faster so, if not set."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints to keep."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Course of the learning rate."})
    warmup_steps: float = field(default=0.06, metadata={"help": "Steps, or share of all steps below 1, of warm-up."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay false: rows carry more than text."})

    def prepare(self: Any) -> None:
        """Check what is ours, and settle what the machine and the method decide; before the library's own checks."""
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # transformers wants it said for bf16
        self.bf16 = not self.fp16 if self.bf16 is None else self.bf16
        if self.bf16:
            self._settle_bf16()
        if self.report_to == "auto":
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.dev_evaluations < 0:
            raise UserError(f"dev_evaluations is {self.dev_evaluations}; use 0 or more")
        if self.ambiguity is False:  # as YAML reads `off`
            self.ambiguity = "off"
        self.overruled: dict[str, Any] = {}  # what the method sets otherwise than it was given
        if self.method in METHOD_ALIASES:
            if self.method == "shala_static" and self.ambiguity != "static":
                self.overruled["ambiguity"], self.ambiguity = self.ambiguity, "static"
            self.method = METHOD_ALIASES[self.method]
        if self.method not in METHODS:
            raise not_one_of("method", self.method, METHODS)
        self.readout = _readout(self.init, self.readout)
        defaults = type(self).__dataclass_fields__
        for name, value in METHODS[self.method].settings.items():
            found = getattr(self, name, value)  # a method may be asked for what the other configuration has
            if found != value:
                self.overruled[name] = found
                if found != defaults[name].default:
                    log.warning("method %s: %s is %s, not %s", self.method, name, value, found)
                setattr(self, name, value)
        if self.target not in ("soft", "hard"):
            raise not_one_of("target", self.target, ("soft", "hard"))
        learns = METHODS[self.method].learns
        unread = unread_settings(self) if learns != "nothing" else frozenset(WEIGHT_SETTINGS)
        self.idle = sorted(name for name in unread & defaults.keys() if getattr(self, name) != defaults[name].default)
        if self.idle:
            with_ = f"method {self.method} and readout {self.readout}"
            if learns != "supervised" and set(self.idle) <= set(WEIGHT_SETTINGS):
                with_ = f"ambiguity {self.ambiguity} and ambiguity_entropy {self.ambiguity_entropy}"
            log.warning("%s: no part with %s", ", ".join(self.idle), with_)

    def _settle_bf16(self: Any) -> None:
        run = Path(str(self.output_dir)) / "run.json"
        began = read_json(run).get("precision") if self.use_cpu and self.resume and run.is_file() else None
        if began is not None:
            self.bf16 = began == "bf16"  # whatever a machine that is busier or less so would be timed at now
        elif self.use_cpu and bf16_slowdown() > 1:
            slower = f"{bf16_slowdown():.0f} times slower than float32 on this CPU"
            log.warning("bf16: %s; float32 is used", slower)
            self.bf16 = False
        elif not self.use_cpu and not accelerator_computes_bf16():
            log.warning("bf16: this GPU has no instructions for it; float32 is used")
            self.bf16 = False

    def ambiguity_settings(self) -> AmbiguitySettings:
        """The fields `ambiguity*`, gathered."""
        return AmbiguitySettings(
            self.ambiguity, self.ambiguity_lambda, self.ambiguity_entropy, self.ambiguity_alpha, self.ambiguity_decay
        )

    def check_weights(self: Any, prompts: int) -> None:
        """Raise where a step mixes too few prompts for their weights to count."""
        plain = str(self.optim).lower().endswith("sgd") and not self.max_grad_norm
        if self.ambiguity != "off" and prompts < 2 and not plain:
            raise UserError(
                "ambiguity: each step holds one prompt, and the optimizer or the clipping of gradients divides a factor on "
                "the whole gradient out again; use a larger per_device_train_batch_size or gradient_accumulation_steps, or "
                "ambiguity off"
            )


@dataclass
class DirectConfig(SpeechConfig, TrainingArguments):
    """Settings of learning in which nothing is drawn. A batch counts rows."""

    class_balance: float = field(
        default=0.0,
        metadata={"help": "How far rare labels count for more: 0 not at all, 1 as if all labels were as frequent."},
    )
    vote_dropping: bool = field(
        default=False, metadata={"help": "Each pass learns from a random part of a row's raters, half or more."}
    )
    vote_resampling: bool = field(
        default=False,
        metadata={"help": "Each pass learns from as many votes, drawn from a row's with replacement (a multinomial)."},
    )
    mixing: float = field(
        default=0.0,
        metadata={"help": "Share of clips that are mixed with another clip of the batch, and their votes with its."},
    )
    curriculum: bool = field(
        default=False, metadata={"help": "The first pass goes from rows that raters agree about to contested ones."}
    )
    direct_loss: str = field(
        default="divergence",
        metadata={
            "help": "Of SHALA's direct objective: the JS divergence; its root, the distance; or, of labels in an order, ranked: "
            "squared distances of cumulative shares."
        },
    )

    def __post_init__(self) -> None:
        self.prepare()
        for name, most in (("class_balance", 2.0), ("mixing", 1.0)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} is {getattr(self, name)}; use 0 to {most:g}")
        if self.vote_dropping and self.vote_resampling:
            raise UserError(
                "vote_dropping and vote_resampling: each draws the votes of a pass; leave one of the two out"
            )
        if self.direct_loss not in ("divergence", "distance", "ranked"):
            raise not_one_of("direct_loss", self.direct_loss, ("divergence", "distance", "ranked"))
        super().__post_init__()
        if METHODS[self.method].learns == "shala":
            self.check_weights(self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size)


@dataclass
class GrpoConfig(SpeechConfig, GRPOConfig):
    """Settings of learning from drawn answers: TRL's `GRPOConfig`, and ours. A batch counts answers."""

    reward: str = field(default="jsd", metadata={"help": f"Of drawn answers: {', '.join(REWARDS)}."})
    invalid_reward: float = field(default=0.0, metadata={"help": "What an answer that does not parse earns."})
    brevity_reward: float = field(
        default=0.0,
        metadata={"help": "Readout verbalized: share of a valid answer's reward that is for being short, 0 to 0.5."},
    )
    advantage: str = field(
        default="group",
        metadata={
            "help": "group: of each answer against its prompt's others (GRPO); all_digits (slots, verbalized): the reward of every "
            "digit at every place, the rest of the answer held."
        },
    )
    group_reward: float = field(
        default=0.0,
        metadata={"help": "With all_digits: share of the reward that is of the mean of a prompt's answers, 0 to 1."},
    )
    dynamic_sampling: bool = field(
        default=False,
        metadata={
            "help": "Rows whose answers all earn alike, which teach nothing, are replaced by others, drawn by their ambiguity "
            "weights (as DAPO does, arXiv 2503.14476)."
        },
    )
    zero_variance_patience: int = field(
        default=50,
        metadata={"help": "Batches in a row whose groups all have equal rewards, that stop a run; 0 for never."},
    )

    def __post_init__(self) -> None:
        self.prepare()
        self.longest_asked = self.max_completion_length  # the trainer shortens it to what a valid answer can have
        choices = {"reward": REWARDS, "advantage": ("group", "all_digits"), "scale_rewards": ("group", "batch", "none")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise not_one_of(name, getattr(self, name), known)
        for name, most in (("brevity_reward", 0.5), ("group_reward", 1)):  # brevity must not outweigh the distance
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} is {getattr(self, name)}; use 0 to {most}")
        if self.advantage == "all_digits" and self.readout not in ("slots", "verbalized"):
            raise UserError(
                f"advantage all_digits: for readouts that write digits, slots and verbalized, not {self.readout}"
            )
        if self.advantage == "group" and self.group_reward:
            raise UserError("group_reward: has no part in advantage group; add --advantage all_digits")
        if self.group_reward and self.readout != "slots":
            raise UserError(f"group_reward: for readout slots, whose answers all state something, not {self.readout}")
        if self.beta != 0:
            raise UserError("beta: no reference model is kept, so a KL term cannot be computed; leave it at 0")
        super().__post_init__()


def read_config(arguments: Sequence[str]) -> DirectConfig | GrpoConfig:
    """Settings from flags, over those of the YAML file that `--config` names.

    Raises:
        UserError: no such file, a setting that is unknown or wrong, or a flag that the method does not read.
    """
    arguments = [_renamed(word) for word in arguments]
    values: dict[str, Any] = {}
    source = _flag(arguments, "config")
    if source is not None:
        values = {OLD_SETTINGS.get(name, name): value for name, value in read_yaml(source).items()}
        for at in reversed([index for index, word in enumerate(arguments) if word.split("=")[0] == "--config"]):
            del arguments[at : at + (1 if "=" in arguments[at] else 2)]
    method = str(_flag(arguments, "method") or values.get("method", "shala"))
    method = METHOD_ALIASES.get(method, method)
    if method not in METHODS:
        raise not_one_of("method", method, METHODS)
    start = _flag(arguments, "init") or values.get("init")
    readout = _readout(start, _flag(arguments, "readout") or values.get("readout"))
    config_class: Any = GrpoConfig if draws_answers(method, readout) else DirectConfig
    own = {one.name for one in fields(config_class) if one.init}
    known = own | {one.name for kind in (DirectConfig, GrpoConfig) for one in fields(kind) if one.init}
    if unknown := sorted(set(values) - known):
        near = nearest(unknown[0], known) or ";"
        raise UserError(
            f"{source}: unknown settings {', '.join(unknown)}{near} `shala-audio train --help-all` lists all"
        )
    for word in arguments:
        name = word[2:].split("=")[0].removeprefix("no_")
        if word.startswith("--") and name not in known:
            near = nearest(name, known) or ";"
            raise UserError(f"--{name}: no such setting{near} `shala-audio train --help-all` lists all")
        if word.startswith("--") and name not in own:
            raise UserError(f"--{name}: no part in method {method} with readout {readout}; leave it out")
    if others := sorted(set(values) - own):  # in a file that several methods share
        log.warning("%s: no part in method %s with readout %s", ", ".join(others), method, readout)
    parser = HfArgumentParser(config_class, allow_abbrev=False, prog="shala-audio train")
    parser.set_defaults(**{name: value for name, value in values.items() if name in own})
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            (config,) = parser.parse_args_into_dataclasses(arguments)
    except SystemExit:
        last = complaint.getvalue().strip().splitlines()[-1]
        raise UserError(last.split("error: ", 1)[-1]) from None
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from None
    sys.stderr.write(complaint.getvalue())
    if not config.output_dir or config.output_dir == "trainer_output":
        raise UserError("output_dir: name the folder for the model")
    for name, given in config.overruled.items():
        if _flag(arguments, name) is not None:
            preset = f"method {config.method} means {name} {getattr(config, name)}"
            raise UserError(f"--{name} {given}: {preset}; leave one of the two out")
    if idle := [name for name in config.idle if _flag(arguments, name) is not None]:
        raise UserError(f"--{idle[0]}: has no part in method {config.method} with these settings; leave it out")
    return config


def _renamed(word: str) -> str:
    """A flag as settings are spelt: with underscores, and by today's name."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    name = name.replace("-", "_")
    return f"--{OLD_SETTINGS.get(name, name)}{equals}{value}"


def _flag(arguments: Sequence[str], name: str) -> str | None:
    """The value of a flag, its last one if it is repeated; "" where it has none, None where it is not given.

    >>> _flag(["--seed", "3", "--resume"], "seed"), _flag(["--seed=2", "--seed=3"], "seed"), _flag(["--resume"], "resume")
    ('3', '3', '')
    """
    for index, word in reversed(list(enumerate(arguments))):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            following = arguments[index + 1 : index + 2]
            if following and not following[0].startswith("--"):
                return following[0]
            if name == "config":
                raise UserError("--config: a YAML file is needed after it")
            return ""
    return None
