from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from scipy.spatial.distance import jensenshannon

from shala_audio.training.rewards import jsd_reward


def test_reward_is_one_minus_scipys_distance():
    reward = jsd_reward(["a", "b", "c"])
    human = [[0.6, 0.4, 0.0]] * 3
    answers = ['{"a": 20, "b": 30, "c": 50}', "I cannot say", '{"a": 60, "b": 40}']
    expected = 1 - jensenshannon([0.6, 0.4, 0.0], [0.2, 0.3, 0.5], base=2)
    assert reward(completions=answers, human=human) == pytest.approx([expected, 0.0, 1.0])


def test_the_reward_runs_in_stock_trl(tiny_lm, tmp_path):
    """As any user of TRL would use it, without our trainer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    rows = Dataset.from_list([{"prompt": f"How do people feel? {index}", "human": [0.5, 0.5]} for index in range(4)])
    settings = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_completion_length=4, max_steps=1,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_lm), jsd_reward(["a", "b"]), settings, rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_lm, padding_side="left"),
    )  # fmt: skip
    trainer.train()
    assert np.isfinite(trainer.state.log_history[0]["reward"])
