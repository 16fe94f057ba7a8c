"""What a speech language model is made of, read from a YAML file in `configs/models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from shala_audio.errors import UserError
from shala_audio.files import config_path, read_yaml


@dataclass(frozen=True)
class ModelConfig:
    """A language model, and the ear in front of it.

    Attributes:
        lm: causal language model: the name of a default model, a folder, or a hub id.
        encoder: audio encoder in the same way; None for a model of text alone.
        encoder_layers: hidden states that learnt weights mix (0 is what enters the first layer).
        frame_stack: encoder frames that become one token.
        projector_width: hidden width of the projector.
        lora_r, lora_alpha: LoRA on every linear layer of the language model; r = 0 leaves it frozen.
        system_prompt: system message; None for language models that take none.
    """

    lm: str
    encoder: str | None = None
    encoder_layers: tuple[int, ...] = ()
    frame_stack: int = 8
    projector_width: int = 768
    lora_r: int = 16
    lora_alpha: int = 32
    system_prompt: str | None = None

    def encoder_identity(self) -> dict[str, Any]:
        """What features depend on; stored with them."""
        return {"encoder": self.encoder, "layers": list(self.encoder_layers)}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "encoder_layers": list(self.encoder_layers)}


def model_config_from_dict(values: Mapping[str, Any], source: str) -> ModelConfig:
    """Check the fields and build the configuration.

    Raises:
        UserError: a field is unknown, missing or wrong; the message names `source`.
    """
    known = {field.name for field in fields(ModelConfig)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{source}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if not isinstance(values.get("lm"), str):
        raise UserError(f"{source}: `lm` is needed: a default model's name, a folder or a hub id")
    config = ModelConfig(**{**values, "encoder_layers": tuple(values.get("encoder_layers") or ())})
    for name in ("frame_stack", "projector_width"):
        if not isinstance(getattr(config, name), int) or getattr(config, name) < 1:
            raise UserError(f"{source}: {name} must be a whole number of 1 or more")
    if config.encoder and not config.encoder_layers:
        raise UserError(f"{source}: encoder_layers is empty; name the layers to mix")
    if not config.encoder and config.lora_r < 1:
        raise UserError(f"{source}: lora_r is 0 and there is no encoder: nothing would be trained")
    return config


def load_model_config(name_or_path: str) -> ModelConfig:
    """Read a model's YAML by the name of a file in `configs/models`, or by path.

    >>> load_model_config("speech").frame_stack
    8
    """
    path = config_path("models", name_or_path)
    return model_config_from_dict(read_yaml(path), str(path))
