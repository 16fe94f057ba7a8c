"""The speech language model: sound and text in one sequence of embeddings, LoRA on the language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import (
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.errors import UserError, not_one_of
from shala_audio.files import read_json, write_beside, write_json
from shala_audio.models.adapters import add_lora
from shala_audio.models.attribute_head import AttributeHead
from shala_audio.models.backbone import SpeechBackbone
from shala_audio.models.config import ModelConfig, model_config_from_dict
from shala_audio.models.ear import Ear
from shala_audio.models.folder import SETTINGS, TRAINED, hub_files
from shala_audio.models.language_model import load_language_model
from shala_audio.models.sources import base_sha256, locate
from shala_audio.tasks import AUDIO_TOKEN, Task, task_from_dict

READOUTS = ("label_token", "slots", "verbalized")


class SpeechLM(PreTrainedModel, GenerationMixin):
    """A causal language model with an ear in front and LoRA inside; everything else is frozen.

    The frozen part of the audio encoder does not belong to it: its features come in ready-made, from the cache in
    training and from `Predictor` in use.

    Attributes:
        model_config, task, readout: what it is made of, what it answers, and how.
        examples: answered rows (`text`, `votes`) that stand in the prompt before the question; none in a trained model.
    """

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_config: ModelConfig,
        task: Task,
        readout: str,
        encoder: AudioEncoder | None,
        lm_sha256: str = "",
        attributes: bool = False,
        encoder_sha256: str = "",
    ) -> None:
        super().__init__(lm.config)
        self.tokenizer = tokenizer
        self.model_config, self.task, self.readout = model_config, task, readout
        self.lm_sha256, self.encoder_sha256 = lm_sha256, encoder_sha256
        self.examples: tuple[dict[str, Any], ...] = ()
        lm.requires_grad_(False)
        ear = None
        if encoder is not None:
            scale = float(lm.get_input_embeddings().weight.detach().float().std())
            ear = Ear(model_config, encoder, lm.config.get_text_config().hidden_size, scale)
        decoder = lm.get_decoder()
        if model_config.lora_r:
            add_lora(decoder, model_config.lora_r, model_config.lora_alpha)
        self.model = SpeechBackbone(decoder, ear, tokenizer.convert_tokens_to_ids(AUDIO_TOKEN))
        self.lm_head = lm.get_output_embeddings()
        self.attribute_head = AttributeHead(lm.config.get_text_config().hidden_size, task) if attributes else None
        self.generation_config = lm.generation_config
        self._no_split_modules = lm._no_split_modules  # the layers that FSDP wraps

    @classmethod
    def build(
        cls,
        model_config: ModelConfig,
        task: Task,
        readout: str,
        dtype: torch.dtype = torch.float32,
        attributes: bool = False,
        lm_sha256: str = "",
        encoder_sha256: str = "",
    ) -> SpeechLM:
        """Load the base models and put fresh trainable parts on them.

        Args:
            model_config, task, readout: what to build.
            dtype: of the language model.
            lm_sha256, encoder_sha256: of the base models' weights, where they must be certain ones.
            attributes: add a head for the task's attributes, which reads the state that the label words follow.

        Raises:
            UserError: a base model cannot be loaded, the task needs sound and the model has no encoder, or it has no
                attributes.
        """
        if readout not in READOUTS:
            raise not_one_of("readout", readout, READOUTS)
        if task.has_audio and model_config.encoder is None:
            raise UserError(f"task {task.name} needs sound, but the model has no encoder")
        if attributes and (readout != "label_token" or not task.attributes):
            raise UserError(f"attributes: readout label_token and a task with attributes are needed, not {task.name}")
        lm, tokenizer, source = load_language_model(model_config.lm, lm_sha256, dtype)
        encoder, heard_with = None, ""
        if task.has_audio:
            where = locate(str(model_config.encoder), sha256=encoder_sha256)
            encoder, heard_with = load_encoder(where, model_config.cached_layers()), base_sha256(where)
        return cls(lm, tokenizer, model_config, task, readout, encoder, base_sha256(source), attributes, heard_with)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> SpeechLM:  # type: ignore[override]
        """Load what `save_pretrained` wrote, on the base models it names.

        Raises:
            UserError: not such a folder, or the base model's weights are not those it was trained on.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise UserError(f"{folder}: not a model folder ({SETTINGS} is missing)")
        settings = read_json(folder / SETTINGS)
        source = str(folder / SETTINGS)
        if missing := sorted({"model", "task", "readout", "lm_sha256"} - set(settings)):
            raise UserError(f"{source}: not of a model: {', '.join(missing)} missing")
        config = model_config_from_dict(settings["model"], source)
        task, attributes = task_from_dict(settings["task"], source), bool(settings.get("attributes"))
        wanted, heard_with = settings["lm_sha256"], settings.get("encoder_sha256", "")
        model = cls.build(config, task, settings["readout"], dtype, attributes, wanted, heard_with)
        if heard_with and model.encoder_sha256 and heard_with != model.encoder_sha256:
            raise UserError(f"{folder}: was trained on other weights of the encoder {config.encoder} than those here")
        if wanted and model.lm_sha256 and wanted != model.lm_sha256:
            raise UserError(
                f"{folder}: was trained on other weights of {config.lm} than those here; `shala-audio models list` tells "
                "where they came from"
            )
        model.examples = tuple(settings.get("examples", ()))
        model.load_trained(folder)
        return model

    def save_pretrained(
        self, save_directory: str | Path, state_dict: dict[str, Tensor] | None = None, **_: Any
    ) -> None:
        """Write the trained parameters and what is needed to rebuild the rest; no base weights."""
        folder = Path(save_directory)
        state = state_dict if state_dict is not None else self.state_dict()
        trained = {name: state[name].detach().cpu().contiguous() for name in self.trained_names()}
        with write_beside(folder / TRAINED) as beside:
            save_file(trained, beside, metadata={"format": "pt"})
        write_json(
            folder / SETTINGS,
            {
                "model": self.model_config.to_dict(),
                "task": self.task.to_dict(),
                "readout": self.readout,
                "lm_sha256": self.lm_sha256,
                "encoder_sha256": self.encoder_sha256,
                "examples": list(self.examples),
                "attributes": self.attribute_head is not None,
            },
        )
        for name, content in hub_files(self.task).items():
            write_json(folder / name, content)

    def load_trained(self, folder: str | Path) -> None:
        """Load the trained parameters of a folder into this model.

        Raises:
            UserError: the file's parameters are not this model's.
        """
        path = Path(folder) / TRAINED
        if not path.is_file():
            raise UserError(f"{folder}: not a model folder ({TRAINED} is missing)")
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        if set(state) != set(self.trained_names()):
            raise UserError(f"{path}: holds other parameters than the model's configuration asks for")
        own = dict(self.named_parameters())
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise UserError(f"{path}: {name} has shape {tuple(value.shape)}, {tuple(own[name].shape)} is needed")
            target = own[name].data
            if isinstance(target, DTensor):
                value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
            target.copy_(value)

    def trained_names(self) -> list[str]:
        """Names of the parameters that training changes: the ear's and the adapter's."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def get_input_embeddings(self) -> nn.Module:
        return self.model.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_decoder(self) -> SpeechBackbone:
        return self.model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        logits_to_keep: int = 0,
        compute: Callable[[SpeechLM], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Next-token logits (B, L or `logits_to_keep`, vocabulary).

        Args:
            input_ids: (B, L), with the placeholder's id once for every token of sound.
            audio_features: (B, S, T, D) encoder features; audio_lengths: (B,) their frames.
            compute: computes something else with this model, whose result is returned instead. Autocast, DDP, FSDP and
                DeepSpeed hook onto `forward`, so what trains the model must come through it; once, not in itself again.
        """
        if compute is not None:
            return compute(self)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            audio_features=audio_features,
            audio_lengths=audio_lengths,
            **kwargs,
        )
        hidden = outputs.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else outputs.last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), past_key_values=outputs.past_key_values)

    def token_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Logits (..., n) in float32 of n chosen tokens, without the rest of the vocabulary."""
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.lm_head.weight
            if isinstance(weight, DTensor):  # FSDP spreads a head of its own, and gathers it only for its own forward
                weight = weight.full_tensor()
            return hidden.float() @ weight[token_ids].float().T
