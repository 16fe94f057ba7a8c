"""Prompts trained a second on the synthetic texts: exact objective and `slots` against `verbalized` GRPO, G = 8.

All three are our trainer with the default text model; only the readout differs. Each run does the same number of steps.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from shala_audio.data.mini import prepare
from shala_audio.data.votes import vote_counts
from shala_audio.models.config import load_model_config
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.tasks import load_task
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.config import ShalaConfig
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.shala import ShalaTrainer

STEPS, BATCH, GROUP = 4, 16, 8


def prompts_per_second(readout: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        rows = prepare(Path(folder), seed=0, rows=128, text=True).rows
        model = SpeechLM.build(load_model_config("text"), load_task("mini_text"), readout)
        config = ShalaConfig(
            output_dir=folder,
            readout=readout,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            num_generations=GROUP,
            max_completion_length=40,
            bf16=True,
            disable_tqdm=True,
        )
        dataset = build_dataset(rows, model, None)
        weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), config.ambiguity_settings())
        trainer = ShalaTrainer(model, config, dataset, Batcher(model, None), weights)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    prompts = BATCH if readout == "label_token" else BATCH // GROUP
    return STEPS * prompts / seconds


def main() -> None:
    rates = {readout: prompts_per_second(readout) for readout in ("verbalized", "slots", "label_token")}
    for readout, rate in rates.items():
        print(f"{readout:12} {rate:6.2f} prompts/s, {rate / rates['verbalized']:5.1f} times verbalized")


if __name__ == "__main__":
    main()
