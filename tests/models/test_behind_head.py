"""What families of language models do to their logits after the head, against their own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3nTextConfig

from shala_audio.errors import UserError
from shala_audio.models.config import ModelConfig
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM, check_head
from tests.tiny import TEXT_TASK, label_log_probs, plain_log_probs

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
FAMILIES = {
    "llama": {},
    "qwen3": {},
    "granite": {"logits_scaling": 6.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 0.3},
    "gemma3_text": {},
    "phi": {},  # its head has a bias
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 6.0},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


@pytest.fixture
def family(request, tiny_lm, tmp_path):
    """A folder with a tiny random model of a family, and the model."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tokenizer), **special, **SIZES, **FAMILIES[request.param]
    )
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that bounds and factors show
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, lm.eval()


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_probabilities_are_the_models_own_and_lora_learns(family):
    folder, lm = family
    model = SpeechLM.build(ModelConfig(str(folder), lora_r=2, lora_alpha=4, system_prompt=""), TEXT_TASK, "label_token")
    adapted = [name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    assert adapted and not any({"router", "gate"} & set(name.split(".")) for name in adapted)
    model.eval()
    batch = PromptBuilder(model).batch([PromptBuilder(model).prompt({"comment": "oh no"}, None)])
    words = [list(word) for word in model.readout.words]
    with torch.no_grad():
        found = label_log_probs(model, batch)[0].tolist()
        own = plain_log_probs(lm, batch["input_ids"][0].tolist(), words)
        assert found == pytest.approx(own, abs=1e-5) and np.exp(found) == pytest.approx(np.exp(own), abs=1e-6)
        torch.testing.assert_close(model(**batch).logits, lm(**batch).logits, atol=1e-5, rtol=1e-5)
    label_log_probs(model, batch)[0, 0].backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_a_model_that_does_something_unknown_is_refused(family, monkeypatch):
    folder, lm = family
    forward = type(lm).forward

    def sharper(self, *arguments, **options):
        outputs = forward(self, *arguments, **options)
        outputs.logits = outputs.logits * 2
        return outputs

    monkeypatch.setattr(type(lm), "forward", sharper)
    with pytest.raises(UserError, match="does more to its embeddings or logits"):
        SpeechLM.build(ModelConfig(str(folder), lora_r=2, lora_alpha=4), TEXT_TASK, "label_token")


def test_a_model_with_embeddings_for_each_layer_is_refused():
    """It answered without them, and what it said was not its own."""
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3nTextConfig(
        **SIZES, vocab_size=400, vocab_size_per_layer_input=400, hidden_size_per_layer_input=8, layer_types=layers,
        num_kv_shared_layers=0, altup_num_inputs=2, laurel_rank=4, activation_sparsity_pattern=[0.0, 0.0],
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config).eval()
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(UserError, match="lm tiny: Gemma3nForCausalLM does more to its embeddings or logits"):
        check_head(lm, "tiny")
