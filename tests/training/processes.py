"""Trains tiny models as one of several processes, or alone, and writes their losses and weights.

python -m tests.training.processes FOLDER ROWS_A_PROCESS       FOLDER holds `lm` and `encoder`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from shala_audio.io import is_main_process, write_json
from shala_audio.models.config import ModelConfig, model_config_from_dict
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts import label_token
from shala_audio.models.readouts.slots import Slots
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Task
from shala_audio.training.callbacks import DevEvaluation
from tests.tiny import SPEECH_TASK, TEXT_TASK, tiny_config, tiny_model
from tests.training.helpers import TinyStore, shala_trainer, supervised_trainer, tiny_rows

RUNS = {
    "warm_start_text": (supervised_trainer, False, {}),
    "shala_text": (shala_trainer, False, {"ambiguity": "dynamic"}),
    "drawn_text": (shala_trainer, False, {"method": "grpo_jsd", "scale_rewards": "batch"}),
    "shala_speech": (shala_trainer, True, {"gradient_accumulation_steps": 2}),
    "verbalized_text": (supervised_trainer, False, {"readout": "verbalized"}),
    "slots_speech": (supervised_trainer, True, {"readout": "slots"}),
}


def each_in_turn(log_q: Tensor, group: int) -> Tensor:
    """Labels (B, G) from the likeliest to the least, and again: not by chance, so that processes can be compared."""
    return log_q.argsort(dim=1, descending=True)[:, torch.arange(group) % log_q.shape[1]]


def the_same_digits(readout: Slots, batch: dict[str, Tensor], group: int, *_: float):
    """Digits (B · G, K, 2) that differ among a prompt's answers, not by chance either."""
    labels, place = torch.arange(len(readout.pieces) - 1)[:, None], torch.arange(2)
    digits = torch.stack([(3 * answer + 7 * labels + place) % 10 for answer in range(group)])
    return digits.repeat(len(batch["input_ids"]), 1, 1), None


def main(folder: Path, batch: int) -> None:
    """One run after another, into `folder`."""
    label_token.draw_labels = each_in_turn
    for name, (trainer_of, speech, given) in RUNS.items():
        options = {**given}
        encoder = folder / "encoder" if speech else None
        model = tiny_model(folder / "lm", encoder, readout=options.pop("readout", "label_token"))
        trainer = trainer_of(model, folder / name, count=40, max_steps=10, per_device_train_batch_size=batch, **options)
        trainer.train()
        if is_main_process():
            trained = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
            save_file(trained, folder / f"{name}.safetensors")
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            extra = {} if trainer_of is supervised_trainer else {"running_loss": trainer.weights.running_loss.tolist()}
            write_json(folder / f"{name}.json", {"losses": losses, **extra})
    Slots.fill = the_same_digits
    torch.manual_seed(0)
    model = tiny_model(folder / "lm", readout="slots")
    options = {"count": 8, "max_steps": 5, "per_device_train_batch_size": batch, "ambiguity": "dynamic"}
    trainer = shala_trainer(model, folder / "slots", **options)
    trainer.train()
    mine = torch.cat([value.detach().flatten() for value in model.parameters() if value.requires_grad])
    everyone = trainer.accelerator.gather(mine[None])
    if is_main_process():
        trained = {key: value.detach().clone() for key, value in model.named_parameters() if value.requires_grad}
        save_file(trained, folder / "slots.safetensors")
        reward = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
        spread = float((everyone - everyone[:1]).abs().max())
        running_loss = trainer.weights.running_loss.tolist()
        write_json(folder / "slots.json", {"reward": reward, "spread": spread, "running_loss": running_loss})
    if PartialState().num_processes > 1:
        found = {name: sharded(*of(folder), folder) for name, of in SHARDED.items()}
        write_json(folder / f"sharded_{PartialState().process_index}.json", found)


def in_float32(folder: Path) -> tuple[Callable[[], SpeechLM], dict[str, Tensor], bool]:
    return lambda: tiny_model(folder / "lm"), token_inputs(), False


def held_in_bfloat16(folder: Path) -> tuple[Callable[[], SpeechLM], dict[str, Tensor], bool]:
    """Frozen weights in bfloat16 beside LoRA in float32, as large models are held."""
    return lambda: built(tiny_config(folder / "low"), TEXT_TASK), token_inputs(), True


def audio_llm(folder: Path) -> tuple[Callable[[], SpeechLM], dict[str, Any], bool]:
    """Its decoder with LoRA, and its projector, which is trained, too."""
    fields = {"audio_lm": str(folder / "audio_llm"), "audio_projector": "trained", "lora_r": 2, "lora_alpha": 4}
    config = model_config_from_dict({**fields, "system_prompt": ""}, "here")
    model = built(config, SPEECH_TASK)
    builder = PromptBuilder(model)
    clips = [torch.randn(1, frames, 32, generator=torch.Generator().manual_seed(frames)) for frames in (9, 14, 5)]
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in clips], clips)
    return lambda: built(config, SPEECH_TASK), batch, False


SHARDED = {"in float32": in_float32, "held in bfloat16": held_in_bfloat16, "audio LLM": audio_llm}


def built(config: ModelConfig, task: Task) -> SpeechLM:
    """The same each time, with LoRA away from zero."""
    torch.manual_seed(0)
    model = SpeechLM.build(config, task, "label_token", "auto")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def token_inputs() -> dict[str, Tensor]:
    ids = torch.randint(2, 200, (3, 12), generator=torch.Generator().manual_seed(0))  # the same everywhere
    ids[:, :5] = ids[0, :5]  # which is computed once for all rows, so that layers are gone through twice
    return {"input_ids": ids, "attention_mask": torch.ones(3, 12, dtype=torch.long)}


def evaluated(model: SpeechLM, out: Path, spread: bool, low: bool) -> float:
    """The distance to the raters that is logged during training."""
    rows, store = tiny_rows(model)
    if model.model_config.audio_projector:
        store = TinyStore({row.id: torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0)) for row in rows})
    logs: dict[str, float] = {}
    trainer = SimpleNamespace(
        model_wrapped=model,
        is_fsdp_enabled=spread,
        args=SimpleNamespace(device="cpu", bf16=low, fp16=False),
        log=logs.update,
        callback_handler=SimpleNamespace(callbacks=[]),
    )
    out.mkdir(exist_ok=True)
    state = SimpleNamespace(global_step=1, max_steps=1, is_world_process_zero=is_main_process() or not spread)
    DevEvaluation(trainer, model, rows, store, 1, out).on_step_end(None, state, SimpleNamespace(should_log=False))
    return logs["eval_jsd"]


def sharded(model_of: Callable[[], SpeechLM], inputs: dict[str, Tensor], low: bool, folder: Path) -> dict[str, float]:
    """The exact loss, a gradient and dev rows' predictions of a model that FSDP 2 has spread over the processes, less those of
    a whole model."""
    label_token.WORTH_SHARING = 1
    found, watched = [], []
    for spread in (False, True):
        model = model_of()
        if spread:
            mesh = init_device_mesh("cpu", (PartialState().num_processes,))
            for layer in model.model.decoder.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            assert not model.eval().model.shares_prompts(), (
                "how many passes there are must not depend on a process's own rows"
            )
        model.train()
        watched.append(evaluated(model, folder / f"dev_{spread}_{PartialState().process_index}", spread, low))
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(compute=lambda model=model: model.readout.log_probs(inputs)[0]).sum()
        loss.backward()
        watched.append(evaluated(model, folder / f"dev_{spread}_{PartialState().process_index}", spread, low))
        gradient = next(p for name, p in model.named_parameters() if "lora_B" in name).grad
        found.append((loss.detach(), gradient.full_tensor() if spread else gradient))
    (loss, gradient), (spread_loss, spread_gradient) = found
    return {
        "dev jsd": max(abs(before - watched[0]) for before in watched),
        "loss": float((spread_loss - loss).abs()),
        "gradient": float((spread_gradient - gradient).abs().max() / gradient.abs().max()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
