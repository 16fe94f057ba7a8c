"""Sides of a training step: prompts as long as those of ChaosNLI, G = 8, LoRA (r = 16), one language model and numeric type."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback

from benchmarks.turns import DTYPE, Turns
from shala_audio.manifest import Row
from shala_audio.models.config import load_model_config
from shala_audio.models.pretrained import prepare_tokenizer
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.label_token import LabelToken, computed_once
from shala_audio.models.readouts.verbalized import Verbalized
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import load_task
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.config import DirectConfig, GrpoConfig
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.direct import DirectTrainer
from shala_audio.training.grpo import GrpoTrainer
from shala_audio.training.rewards import jsd_reward
from shala_audio.votes import human_distributions, vote_counts

PROMPTS, GROUP, NEW_TOKENS, STEPS = 8, 8, 40, 100
HELD: Any = "auto" if DTYPE.itemsize == 2 else torch.float32  # "auto": as it was published
WORDS = [
    "a",
    "the",
    "two",
    "man",
    "woman",
    "child",
    "dog",
    "on",
    "in",
    "near",
    "with",
    "street",
    "park",
    "music",
    "water",
    "red",
    "old",
    "young",
    "crowd",
    "table",
    "plays",
    "waits",
    "runs",
    "looks",
    "sits",
    "eats",
    "outside",
    "together",
    "while",
    "it",
    "was",
    "not",
    "very",
    "new",
    "house",
    "they",
    "talked",
    "about",
    "years",
]


def chaosnli_rows(count: int, seed: int = 0) -> list[Row]:
    """Made-up sentence pairs as long as ChaosNLI's: premises of 8 to 22 words, hypotheses of 4 to 11, 100 raters."""
    rng = np.random.default_rng(seed)

    def sentence(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high + 1))).capitalize() + "."

    rows = []
    labels = load_task("chaosnli").label_names
    for index in range(count):
        votes = rng.multinomial(100, rng.dirichlet(np.ones(len(labels))))
        named = {label: int(vote) for label, vote in zip(labels, votes, strict=True) if vote}
        text = {"premise": sentence(8, 22), "hypothesis": sentence(4, 11)}
        rows.append(Row(f"r{index}", "chaosnli", "train", text=text, votes=named))
    return rows


def other_prompts(tokenizer: Any, rows: list[Row]) -> list[str]:
    """The prompts of readout `verbalized`, without loading our model into the other's memory."""
    config, task = load_model_config("text"), load_task("chaosnli")
    model = SimpleNamespace(
        tokenizer=tokenizer,
        task=task,
        examples=[],
        model=SimpleNamespace(audio_adapter=None),
        model_config=config,
        config=SimpleNamespace(get_text_config=lambda: None),
    )
    model.readout = Verbalized(cast(SpeechLM, model))
    builder = PromptBuilder(cast(SpeechLM, model))
    return [builder.prompt(row.text, None) for row in rows]


class _Pace(TrainerCallback):
    """A step of the trainer is a turn."""

    def __init__(self, turns: Turns, units: float, **extra: float) -> None:
        self.turns, self.units, self.extra = turns, units, extra

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.turns.wait():
            raise _NoMoreTurns

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.done(self.units, **self.extra)


class _NoMoreTurns(Exception):
    pass


def _options(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder, "max_steps": STEPS, "num_generations": GROUP, "max_completion_length": NEW_TOKENS,
        "learning_rate": 1e-5, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": STEPS,
    }  # fmt: skip


def our_trainer(
    folder: str, readout: str, prompts: int, group: int = GROUP, settings: str = "text"
) -> DirectTrainer | GrpoTrainer:
    """A trainer whose every step is of the same so many prompts."""
    torch.manual_seed(0)
    rows = chaosnli_rows(prompts)
    model = SpeechLM.build(load_model_config(settings), load_task("chaosnli"), readout, HELD)
    dataset, batcher = build_dataset(rows, model, None), Batcher(model, None)
    options = _options(folder)
    if model.readout.is_direct:
        of_rollouts = {"num_generations", "max_completion_length"}
        direct = {name: value for name, value in options.items() if name not in of_rollouts}
        config = DirectConfig(readout=readout, per_device_train_batch_size=prompts, **direct)
        weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), config.ambiguity_settings())
        return DirectTrainer(model, config, dataset, batcher, weights)
    drawn = GrpoConfig(
        readout=readout, per_device_train_batch_size=prompts * group, **{**options, "num_generations": group}
    )
    weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), drawn.ambiguity_settings())
    return GrpoTrainer(model, drawn, dataset, batcher, weights)


def train_ours(turns: Turns, readout: str, prompts: int = PROMPTS, group: int = GROUP, settings: str = "text") -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(folder, readout, prompts, group, settings)
        prompts_of = trainer.train_dataset["prompt"]
        extra = {}
        if readout == "label_token":
            extra["flops_per_unit"] = direct_step_flops(trainer.model.train(), prompts_of) / prompts
        trainer.add_callback(_Pace(turns, prompts, **extra))
        try:
            trainer.train()
        except _NoMoreTurns:
            return


def direct_step_flops(model: SpeechLM, prompts: list[str]) -> float:
    """Multiply-adds times two of a step of the direct objective: weights seen by a token, once forward, once backward to activations.

    Tokens are those that are really computed: without padding, a shared beginning once. Attention's own products, LoRA
    and the head are left out, so that the share of the machine's peak comes out too low rather than too high.
    """
    batch = PromptBuilder(model).batch(prompts)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    shared = computed_once(model, ids, mask)
    tokens = int(mask.sum()) - (len(ids) - 1) * shared + len(ids) * len(LabelToken(model).tree.tokens)
    weights = sum(
        parameter.numel()
        for name, parameter in model.model.decoder.named_parameters()
        if parameter.ndim == 2 and "lora_" not in name and "embed" not in name
    )
    return 4.0 * weights * tokens


def stock_grpo(turns: Turns, prompts: int = PROMPTS, recompute: bool = True, settings: str = "text") -> None:
    """Stock TRL: `GRPOTrainer` with our jsd reward on JSON that the model writes freely, 40 new tokens.

    Its defaults stay as they are; among them, activations are computed again in the backward pass, unless told not to.
    """
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from shala_audio.models.pretrained import locate

    torch.manual_seed(0)
    model_config = load_model_config(settings)
    source = locate(model_config.lm)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=HELD)
    prepare_tokenizer(tokenizer)
    rows, labels = chaosnli_rows(prompts), load_task("chaosnli").label_names
    human = human_distributions(rows, labels).tolist()
    texts = other_prompts(tokenizer, rows)
    dataset = Dataset.from_list([{"prompt": text, "human": p} for text, p in zip(texts, human, strict=True)])
    lora = LoraConfig(r=model_config.lora_r, lora_alpha=model_config.lora_alpha, target_modules="all-linear")
    with tempfile.TemporaryDirectory() as folder:
        # Our configuration knows whether bfloat16 pays on this machine; both sides use the same type.
        bf16 = bool(DirectConfig(output_dir=folder).bf16)
        config = GRPOConfig(
            per_device_train_batch_size=prompts * GROUP, bf16=bf16, beta=0.0, gradient_checkpointing=recompute,
            use_cpu=not torch.accelerator.is_available(), **_options(folder),
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=[jsd_reward(labels)], args=config, train_dataset=dataset,
            processing_class=tokenizer, peft_config=lora,
        )  # fmt: skip
        trainer.add_callback(_Pace(turns, prompts))
        try:
            trainer.train()
        except _NoMoreTurns:
            return
