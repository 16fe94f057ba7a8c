from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shala_audio.errors import UserError
from shala_audio.models.config import ModelConfig
from shala_audio.models.lora import add_lora
from shala_audio.models.memory import reckon


@pytest.fixture
def llama(tmp_path):
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        dtype=torch.bfloat16,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


def test_what_is_reckoned_is_what_a_step_saves(llama):
    """Against every tensor that autograd saves in a pass under autocast, each counted once, weights left out."""
    rows, tokens = 4, 32
    found = reckon(ModelConfig(str(llama), lora_r=4), rows, tokens)
    lm = LlamaForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    assert found.parameters == lm.num_parameters() and found.weights == 2 * found.parameters
    decoder = lm.get_decoder()
    decoder.requires_grad_(False)
    add_lora(decoder, 4, 8)
    trained = sum(parameter.numel() for parameter in decoder.parameters() if parameter.requires_grad)
    assert found.trained == 16 * trained
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeds = torch.randn(rows, tokens, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
    assert output.requires_grad
    assert sum(saved.values()) == pytest.approx(found.activations, rel=0.15)
    assert found.checkpointed < found.activations / 2


def test_weights_in_float32_take_more(llama):
    low, high = (reckon(ModelConfig(str(llama), weights=weights)) for weights in ("auto", "float32"))
    assert high.weights > 2.5 * low.weights and high.activations == low.activations


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(UserError, match="lm no/such-model-here: cannot be loaded"):
        reckon(ModelConfig("no/such-model-here"))
