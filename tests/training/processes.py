"""Trains tiny models as one of several processes, or alone, and writes their losses and weights.

python -m tests.training.processes FOLDER ROWS_A_PROCESS       FOLDER holds `lm` and `encoder`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from shala_audio.io import is_main_process, write_json
from shala_audio.models.readouts import label_token, slots
from shala_audio.models.readouts.slots import SlotTemplate
from shala_audio.models.speech_lm import SpeechLM
from tests.tiny import tiny_model
from tests.training.helpers import shala_trainer, supervised_trainer

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


def the_same_digits(model: SpeechLM, template: SlotTemplate, batch: dict[str, Tensor], group: int, *_: float):
    """Digits (B · G, K, 2) that differ among a prompt's answers, not by chance either."""
    labels, place = torch.arange(len(model.task.label_names))[:, None], torch.arange(2)
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
    slots.fill_slots = the_same_digits
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
        write_json(folder / f"sharded_{PartialState().process_index}.json", sharded(folder))


def sharded(folder: Path) -> dict[str, float]:
    """The exact loss and a gradient of a model that FSDP 2 has spread over the processes, less those of a whole model."""
    ids = torch.randint(2, 200, (3, 12), generator=torch.Generator().manual_seed(0))  # the same everywhere
    ids[:, :5] = ids[0, :5]  # which is computed once for all rows, so that layers are gone through twice
    inputs = {"input_ids": ids, "attention_mask": torch.ones(3, 12, dtype=torch.long)}
    label_token.WORTH_SHARING = 1
    found = []
    for spread in (False, True):
        model = tiny_model(folder / "lm")
        if spread:
            mesh = init_device_mesh("cpu", (PartialState().num_processes,))
            for layer in model.model.decoder.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            assert not model.eval().model.shares_prompts(), (
                "how many passes there are must not depend on a process's own rows"
            )
            model.train()
        loss = model(compute=lambda model=model: model.readout.log_probs(inputs)[0]).sum()
        loss.backward()
        gradient = next(p for name, p in model.named_parameters() if "lora_B" in name).grad
        found.append((loss.detach(), gradient.full_tensor() if spread else gradient))
    (loss, gradient), (spread_loss, spread_gradient) = found
    return {
        "loss": float((spread_loss - loss).abs()),
        "gradient": float((spread_gradient - gradient).abs().max() / gradient.abs().max()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
