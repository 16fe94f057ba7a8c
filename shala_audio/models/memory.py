"""How much memory a training step of `label_token` takes, reckoned from a language model's configuration alone.

What is counted: frozen weights, what is trained with its gradient and Adam's two moments, and what the layers save for the
backward pass under autocast to bfloat16 (or float16). Not counted: the audio encoder, logits, and what the device's library takes for
itself. Of a decoder of the Llama kind, each layer saves 22 d + 4 kv + 8 ff bytes a token (d: width, kv: width of keys, ff:
of the feed-forward part), which measuring confirms within 15 per cent (`tests/models/test_memory.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from shala_audio.models.config import ModelConfig
from shala_audio.models.pretrained import language_model_without_weights

GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes, by what takes them.

    Attributes:
        parameters: how many the language model has.
        weights: of the frozen weights, as `weights` in the model's YAML holds them.
        trained: LoRA in float32 with gradients and moments.
        activations: what is saved for the backward pass.
        checkpointed: the same with `gradient_checkpointing`.
    """

    parameters: int
    weights: float
    trained: float
    activations: float
    checkpointed: float

    def total(self, checkpointing: bool = False) -> float:
        return self.weights + self.trained + (self.checkpointed if checkpointing else self.activations)


def reckon(config: ModelConfig, rows: int = 16, tokens: int = 512) -> Memory:
    """Memory of a step of `rows` rows, each of `tokens` tokens, from the configuration; a default model is fetched for it.

    Raises:
        UserError: there is no such language model.
    """
    lm = language_model_without_weights(config.lm)
    lm_config, parameters = lm.config, lm.num_parameters()
    linear = [module for module in lm.get_decoder().modules() if isinstance(module, nn.Linear)]
    products = sum(module.weight.numel() for module in linear)
    low = lm_config.dtype in (torch.bfloat16, torch.float16)
    held_low = config.weights == "auto" and low
    # Where weights are held in float32, autograd keeps a copy of those in products in two bytes.
    weights = 2.0 * parameters if held_low else 4.0 * parameters + 2.0 * products
    if config.weights == "4bit":  # with a scale for 64 weights, itself of a byte
        weights = 0.52 * products + (2.0 if low else 4.0) * (parameters - products)
    trained = 16.0 * config.lora_r * sum(module.in_features + module.out_features for module in linear)
    width, layers = lm_config.hidden_size, lm_config.num_hidden_layers
    heads = getattr(lm_config, "num_key_value_heads", None) or lm_config.num_attention_heads
    head = getattr(lm_config, "head_dim", None) or width // lm_config.num_attention_heads
    feed_forward = getattr(lm_config, "intermediate_size", None) or 4 * width
    # In front of weights of four bits, LoRA's sums are kept in float32.
    of_width, of_feed_forward = (24.0, 14.0) if config.weights == "4bit" else (22.0, 8.0)
    layer = rows * tokens * (of_width * width + 4.0 * heads * head + of_feed_forward * feed_forward)
    return Memory(parameters, weights, trained, layers * layer, layers * rows * tokens * 4.0 * width + layer)
