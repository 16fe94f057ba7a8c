"""The exchange with vLLM, which no machine without a GPU can install: a stand-in of its interface, computed by transformers.

It is sent weights under the names of the language model itself, and draws answers with them; so a weight that is missing, has
another name or another shape, and a policy that is not the trainer's, are seen.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import trl.generation.vllm_generation as of_trl
from transformers import AutoModelForCausalLM

import shala_audio.training.grpo as ours
from tests.tiny import tiny_model
from tests.training.helpers import shala_trainer


class StandIn:
    """What TRL calls of `vllm.LLM` in colocate mode."""

    made: ClassVar[list[StandIn]] = []

    def __init__(self, model: str, **_: Any) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.received: dict[str, int] = {}
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load_weights))
        worker = SimpleNamespace(model_runner=runner)
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=4096), model_executor=SimpleNamespace(driver_worker=worker)
        )
        self.made.append(self)

    def load_weights(self, weights: Any) -> None:
        parameters = dict(self.lm.named_parameters())
        for name, value in weights:
            assert parameters[name].shape == value.shape, name
            parameters[name].data.copy_(value)
            self.received[name] = self.received.get(name, 0) + 1

    def reset_prefix_cache(self) -> None:
        """TRL asks for it after each exchange."""

    @torch.no_grad()
    def generate(self, prompts: Any, sampling_params: Any, **_: Any) -> list[Any]:
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, prompt: list[int], sampling: Any) -> Any:
        tokens: list[int] = []
        probabilities = []
        while len(tokens) < sampling.max_tokens and (not tokens or tokens[-1] != self.lm.config.eos_token_id):
            logits = self.lm(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1] / sampling.temperature
            log_probs = logits.log_softmax(dim=-1)
            tokens.append(int(torch.multinomial(log_probs.exp(), 1)))
            probabilities.append({tokens[-1]: SimpleNamespace(rank=1, logprob=float(log_probs[tokens[-1]]))})
        answer = SimpleNamespace(token_ids=tokens, logprobs=probabilities)
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[answer])


@pytest.fixture
def stand_in(monkeypatch):
    for module in (of_trl, ours):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(of_trl, "LLM", StandIn, raising=False)
    monkeypatch.setattr(of_trl, "SamplingParams", SimpleNamespace, raising=False)
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn


def test_what_vllm_draws_from_is_the_policy(tiny_lm, tmp_path, stand_in):
    model = tiny_model(tiny_lm, readout="verbalized")
    options = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 512}
    trainer = shala_trainer(model, tmp_path, max_steps=2, **options)
    # Answers of a random model are all invalid and so earn alike; their tokens tell them apart.
    trainer.reward_funcs = [lambda completion_ids, **_: [sum(one) % 7 / 7 for one in completion_ids]]
    ratios: list[float] = []
    scored = trainer._generate_and_score_completions

    def watched(inputs: Any) -> Any:
        found = scored(inputs)
        ratios.append(float((found["importance_sampling_ratio"] - 1).abs().max()))
        return found

    trainer._generate_and_score_completions = watched
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    assert any((p != before[name]).any() for name, p in model.named_parameters() if name in before)
    (vllm,) = stand_in.made
    assert set(vllm.received) == set(dict(vllm.lm.named_parameters())), "every weight, by its own name"
    assert max(ratios) < 1e-3, "what was drawn is as likely to the trainer"
    trainer.vllm_generation.sync_weights()
    ids = torch.randint(2, 200, (2, 9))
    with torch.no_grad():
        theirs, policy = (lm(input_ids=ids).logits.log_softmax(dim=-1) for lm in (vllm.lm, model.eval()))
    assert torch.allclose(theirs, policy, atol=1e-4), "with the adapter folded in"
