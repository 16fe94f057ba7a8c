"""The speech language model: sound and text in one sequence of embeddings, LoRA on the language model.

Sound is merged *inside* the backbone, below the language-model head: TRL's loss runs the backbone and fuses the head, so
a merge in `forward` of the whole model would reach generation and not the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from shala_audio.audio.audio_llm import AudioLLMEncoder
from shala_audio.audio.encoders import AudioEncoder, load_encoder
from shala_audio.errors import UserError, not_one_of
from shala_audio.io import atomic_write, read_json, write_json
from shala_audio.models.audio_adapter import AudioAdapter, PretrainedProjector
from shala_audio.models.config import ModelConfig, model_config_from_dict
from shala_audio.models.folder import SETTINGS, TRAINED, hub_files
from shala_audio.models.lora import add_lora
from shala_audio.models.pretrained import base_sha256, load_language_model, locate
from shala_audio.models.readouts import READOUTS
from shala_audio.task import AUDIO_TOKEN, Task, task_from_dict

SHORT = 128  # tokens
WRAPPED = "_checkpoint_wrapped_module."  # in names, under FSDP's activation checkpointing

Dtype: TypeAlias = torch.dtype | Literal["auto"]


class AttributeHead(nn.Linear):
    """States of width D to a task's A attributes, each on its scale.

    Args:
        width: D.
        task: whose attributes.
    """

    def __init__(self, width: int, task: Task) -> None:
        super().__init__(width, len(task.attributes))
        self.scales = [(attribute.low, attribute.high) for attribute in task.attributes]

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, A) in float32, of (B, D)."""
        low, high = hidden.new_tensor(self.scales, dtype=torch.float32).T
        with torch.autocast(hidden.device.type, enabled=False):
            # The weights may be in bfloat16, where the machine's settings say so.
            return low + (high - low) * F.linear(hidden.float(), self.weight.float(), self.bias.float()).sigmoid()


class BehindHead(nn.Module):
    """What a language model does to its logits after the head: Granite divides them, Cohere and Falcon-H1 multiply them, and
    Gemma bounds them.

    Args:
        config: of the language model.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        factors = [getattr(config, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")]
        self.factor = math.prod(float(factor) for factor in factors if isinstance(factor, (int, float)))
        scaling = float(getattr(config, "logits_scaling", None) or 1.0)
        self.factor *= scaling if config.model_type == "hyperclovax" else 1 / scaling
        self.bound: float | None = getattr(config, "final_logit_softcapping", None)

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if self.bound is None else self.bound * (logits / self.bound).tanh()


@torch.inference_mode()
def check_head(lm: PreTrainedModel, name: str) -> None:
    """Raise a UserError where a language model does something else to its embeddings or its logits (Gemma 3n has embeddings for
    each layer), so that probabilities would not be its own."""
    ids = torch.tensor([[1, 2, 3]], device=lm.device)
    hidden = lm.get_decoder()(inputs_embeds=lm.get_input_embeddings()(ids)).last_hidden_state
    ours = BehindHead(lm.config.get_text_config())(lm.get_output_embeddings()(hidden)).float()
    if not torch.allclose(ours, lm(input_ids=ids).logits.float(), atol=1e-3, rtol=1e-3):
        raise UserError(
            f"lm {name}: {type(lm).__name__} does more to its embeddings or logits than is known here; use another one"
        )


def ends_of(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model was published with, such as that of a turn. What
    else stands there, as a penalty on repetition, would change what is said."""
    published = getattr(lm.generation_config, "eos_token_id", None)
    ends = published if isinstance(published, list) else [published]
    return sorted({tokenizer.eos_token_id, *ends} - {None})


class ProductCache(DynamicCache):
    """Keys and values in the type that products are computed in: attention takes them so anyway, and held in float32 they
    need twice the memory and are cast again for each token."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        dtype = torch.get_autocast_dtype(key_states.device.type)
        return super().update(key_states.to(dtype), value_states.to(dtype), *args, **kwargs)


class SpeechBackbone(nn.Module):
    """A decoder whose placeholder tokens are replaced by the audio adapter's."""

    def __init__(
        self, decoder: PreTrainedModel, audio_adapter: AudioAdapter | PretrainedProjector | None, audio_token_id: int
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.audio_adapter = audio_adapter
        self.audio_token_id = audio_token_id
        self.size = sum(parameter.numel() for parameter in decoder.parameters())
        # How many tokens every layer sees: those of the smallest sliding window; none where a layer has a running state.
        layers = DynamicCache(config=decoder.config).layers
        seen = (math.inf if type(layer) is DynamicLayer else getattr(layer, "sliding_window", 0) for layer in layers)
        self.window: float = min(seen, default=math.inf)

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, audio_features, audio_lengths)
        mask = kwargs.get("attention_mask")
        if kwargs.get("position_ids") is None and mask is not None and mask.dim() == 2:  # padding takes no position
            kwargs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        # Not where gradients are summed in what is kept, which would be in that type too.
        low = torch.is_autocast_enabled(inputs_embeds.device.type) and not torch.is_grad_enabled()
        if low and kwargs.get("use_cache"):
            cache = kwargs.get("past_key_values")
            if cache is None:
                kwargs["past_key_values"] = ProductCache(config=self.decoder.config)
            elif type(cache) is DynamicCache and not cache.get_seq_length():
                cache.__class__ = ProductCache  # the caller's own, whatever else it does
        with self._attention_of(inputs_embeds):
            return self.decoder(inputs_embeds=inputs_embeds, **kwargs)

    def embed(self, input_ids: Tensor, audio_features: Tensor | None, audio_lengths: Tensor | None) -> Tensor:
        """Embeddings (B, L, D) of tokens (B, L), with sound where the placeholders stand."""
        is_audio = input_ids == self.audio_token_id
        embeds = self.decoder.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        if torch.is_autocast_enabled(embeds.device.type):
            embeds = embeds.float()  # whatever holds the weights, all but products stays in float32 from here on
        if not is_audio.any():
            return embeds
        if self.audio_adapter is None or audio_features is None or audio_lengths is None:
            raise ValueError("the prompt has placeholders for sound, but no sound was given")
        tokens, counts = self.audio_adapter(audio_features, audio_lengths)
        if not torch.equal(is_audio.sum(dim=1), counts):
            raise ValueError(
                f"placeholders for sound {is_audio.sum(dim=1).tolist()}, tokens of sound {counts.tolist()}"
            )
        valid = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        return embeds.masked_scatter(is_audio[..., None], tokens[valid].to(embeds.dtype))

    def _attention_of(self, inputs_embeds: Tensor) -> AbstractContextManager[Any]:
        """Plain attention where a CPU is to learn from short rows: flash attention's backward pass takes three times as long.
        Not where activations are computed again, which happens outside of this context."""
        short = inputs_embeds.shape[1] <= SHORT and inputs_embeds.device.type == "cpu" and torch.is_grad_enabled()
        return sdpa_kernel(SDPBackend.MATH) if short and not self._recomputes() else nullcontext()

    def _layers(self) -> list[nn.Module]:
        # Asked in every step, so of the decoder and its layers alone, where FSDP and checkpointing leave their marks: with
        # LoRA a decoder has thousands of modules.
        stacks = [child for child in self.decoder.children() if isinstance(child, nn.ModuleList)]
        return [self.decoder, *([layer for stack in stacks for layer in stack] or self.decoder.modules())]

    def _recomputes(self) -> bool:
        """Whether activations are computed again in training."""
        return any(
            getattr(part, "gradient_checkpointing", False) or hasattr(part, "_checkpoint_wrapped_module")
            for part in self._layers()
            if part.training
        )

    def shares_prompts(self) -> bool:
        """Whether rows may share what was computed of their prompts, in a cache.

        Not in models whose layers keep less than all keys and values; nor where FSDP spreads the layers, because it gathers
        them for as many passes in every process, and for a backward pass through their outputs alone; nor in training where
        activations are computed again.
        """
        spread = any(isinstance(next(part.parameters(), None), DTensor) for part in self._layers())
        return not spread and self.sees(math.inf) and not self._recomputes()

    def sees(self, tokens: float) -> bool:
        """Whether every layer sees all of so many tokens: none has a smaller window or a running state."""
        return tokens <= self.window


class SpeechLM(PreTrainedModel, GenerationMixin):
    """A causal language model with an audio adapter in front and LoRA inside; everything else is frozen.

    The frozen part of the audio encoder does not belong to it: its features come in ready-made, from the cache in
    training and from `Predictor` in use.

    Attributes:
        model_config, task: what it is made of, and what it answers.
        readout: how it states a distribution.
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
        self.model_config, self.task = model_config, task
        self.lm_sha256, self.encoder_sha256 = lm_sha256, encoder_sha256
        self.examples: tuple[dict[str, Any], ...] = ()
        lm.requires_grad_(False)
        audio_adapter: AudioAdapter | PretrainedProjector | None = None
        if encoder is not None:
            scale = float(lm.get_input_embeddings().weight.detach().float().std())
            if isinstance(encoder, AudioLLMEncoder):
                audio_adapter = PretrainedProjector(encoder)
            else:
                audio_adapter = AudioAdapter(model_config, encoder, lm.config.get_text_config().hidden_size, scale)
        decoder = lm.get_decoder()
        if model_config.lora_r:
            add_lora(decoder, model_config.lora_r, model_config.lora_alpha)
        self.model = SpeechBackbone(decoder, audio_adapter, tokenizer.convert_tokens_to_ids(AUDIO_TOKEN))
        self.lm_head = lm.get_output_embeddings()
        self.behind_head = BehindHead(lm.config.get_text_config())
        self.attribute_head = AttributeHead(lm.config.get_text_config().hidden_size, task) if attributes else None
        self.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends_of(lm, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )
        if self.model.audio_token_id < self.lm_head.weight.shape[0]:  # an answer never holds the placeholder for sound
            self.generation_config.suppress_tokens = [self.model.audio_token_id]
        # The layers that FSDP wraps; an audio LLM itself names others.
        self._no_split_modules = decoder._no_split_modules
        self.readout = READOUTS[readout](self)
        self.autocast: tuple[str, torch.dtype] | None = None  # device and type, where nothing around `forward` does it

    @classmethod
    def build(
        cls,
        model_config: ModelConfig,
        task: Task,
        readout: str,
        dtype: Dtype = torch.float32,
        attributes: bool = False,
    ) -> SpeechLM:
        """Load the base models and put fresh trainable parts on them.

        Args:
            model_config, task, readout: what to build.
            dtype: of the language model; "auto": as its configuration's `weights` says.
            attributes: add a head for the task's attributes, which reads the state that the label words follow.

        Raises:
            UserError: a base model cannot be loaded, the task needs sound and the model has no encoder, or it has no
                attributes.
        """
        return cls._build(model_config, task, readout, dtype, attributes)[0]

    @classmethod
    def _build(
        cls,
        model_config: ModelConfig,
        task: Task,
        readout: str,
        dtype: Dtype,
        attributes: bool,
        lm_sha256: str = "",
        encoder_sha256: str = "",
    ) -> tuple[SpeechLM, AudioEncoder | None]:
        """The model, and the encoder that it was fitted to; the hashes are of weights that must be certain ones."""
        if readout not in READOUTS:
            raise not_one_of("readout", readout, READOUTS)
        if task.has_audio and model_config.encoder is None:
            raise UserError(f"task {task.name} needs sound, but the model has no encoder")
        if attributes and not (READOUTS[readout].is_direct and task.attributes):
            raise UserError(f"attributes: readout label_token and a task with attributes are needed, not {task.name}")
        if not task.has_audio and model_config.lora_r < 1:
            raise UserError(f"task {task.name}: has no sound, and lora_r is 0: nothing would be trained")
        if dtype == "auto" and model_config.weights == "float32":
            dtype = torch.float32
        hears = bool(model_config.audio_projector)
        lm, tokenizer, processor, source = load_language_model(
            model_config.lm, lm_sha256, dtype, hears, model_config.weights == "4bit"
        )
        check_head(lm, model_config.lm)
        found = base_sha256(source)
        encoder: AudioEncoder | None = None
        encoder_found = ""
        if task.has_audio and processor is not None:
            encoder = AudioLLMEncoder(lm, processor, model_config.cached_layers())
            encoder_found = found
        elif task.has_audio:
            where = locate(str(model_config.encoder), sha256=encoder_sha256)
            cached = model_config.cached_layers()
            encoder, encoder_found = (
                load_encoder(where, sorted({*model_config.encoder_layers, *cached})),
                base_sha256(where),
            )
        model = cls(lm, tokenizer, model_config, task, readout, encoder, found, attributes, encoder_found)
        if encoder is not None:
            encoder.layers = model_config.cached_layers()  # what it gives; the layers above were taken out of it
        return model, encoder

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, dtype: Dtype = torch.float32, readout: str | None = None
    ) -> SpeechLM:
        """Load what `save_pretrained` wrote, on the base models it names.

        Args:
            folder: of a trained model.
            dtype: of the language model; "auto": as its configuration's `weights` says.
            readout: another one than the model was trained with, to learn from there.

        Raises:
            UserError: not such a folder, the base model's weights are not those it was trained on, or the model has a head for
                attributes, which the other readout cannot have.
        """
        return cls.load(folder, dtype, readout)[0]

    @classmethod
    def load(
        cls, folder: str | Path, dtype: Dtype = torch.float32, readout: str | None = None
    ) -> tuple[SpeechLM, AudioEncoder | None]:
        """As `from_pretrained`; and the frozen encoder, of which the model has the trained layers alone."""
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise UserError(f"{folder}: not a model folder ({SETTINGS} is missing)")
        settings = read_json(folder / SETTINGS)
        source = str(folder / SETTINGS)
        if missing := sorted({"model", "task", "readout", "lm_sha256"} - set(settings)):
            raise UserError(f"{source}: not of a model: {', '.join(missing)} missing")
        config = model_config_from_dict(settings["model"], source)
        task, attributes = task_from_dict(settings["task"], source), bool(settings.get("attributes"))
        lm_wanted, encoder_wanted = settings["lm_sha256"], settings.get("encoder_sha256", "")
        readout = readout or settings["readout"]
        model, encoder = cls._build(config, task, readout, dtype, attributes, lm_wanted, encoder_wanted)
        if encoder_wanted and model.encoder_sha256 and encoder_wanted != model.encoder_sha256:
            raise UserError(f"{folder}: was trained on other weights of the encoder {config.encoder} than those here")
        if lm_wanted and model.lm_sha256 and lm_wanted != model.lm_sha256:
            raise UserError(
                f"{folder}: was trained on other weights of {config.lm} than those here; `shala-audio models list` tells "
                "where they came from"
            )
        model.examples = tuple(settings.get("examples", ()))
        model.load_trained(folder)
        return model, encoder

    def save_pretrained(
        self, save_directory: str | Path, state_dict: dict[str, Tensor] | None = None, **_: Any
    ) -> None:
        """Write the trained parameters and what is needed to rebuild the rest; no base weights."""
        folder = Path(save_directory)
        given = state_dict if state_dict is not None else self.state_dict()
        state = {name.replace(WRAPPED, ""): value for name, value in given.items()}
        trained = {name: state[name].detach().cpu().contiguous() for name in self.trained_names()}
        with atomic_write(folder / TRAINED) as beside:
            save_file(trained, beside, metadata={"format": "pt"})
        write_json(
            folder / SETTINGS,
            {
                "model": self.model_config.to_dict(),
                "task": self.task.to_dict(),
                "readout": self.readout.name,
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
        state = {
            name.replace("model.ear.", "model.audio_adapter.", 1): value for name, value in state.items()
        }  # to 0.1.0
        state = {name.replace("projector.places", "projector.positions", 1): value for name, value in state.items()}
        if set(state) != set(self.trained_names()):
            raise UserError(f"{path}: holds other parameters than the model's configuration asks for")
        own = dict(self._named())
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise UserError(f"{path}: {name} has shape {tuple(value.shape)}, {tuple(own[name].shape)} is needed")
            target = own[name].data
            if isinstance(target, DTensor):
                value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
            target.copy_(value)

    def trained_names(self) -> list[str]:
        """Names of the parameters that training changes."""
        return [name for name, parameter in self._named() if parameter.requires_grad]

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by their names without what wraps layers whose activations are computed again."""
        return ((name.replace(WRAPPED, ""), parameter) for name, parameter in self.named_parameters())

    def trained_parts(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by what they belong to: "audio adapter", "encoder" (its trained layers), "lm" (LoRA) and
        "attribute head"."""
        adapter = self.model.audio_adapter
        encoder = None if adapter is None else adapter.top
        owners = (
            ("encoder", encoder),
            ("audio adapter", adapter),
            ("attribute head", self.attribute_head),
            ("lm", self),
        )
        parts: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for name, module in owners:
            for parameter in module.parameters() if module is not None else ():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    parts.setdefault(name, []).append(parameter)
        return parts

    def train_as_policy(self) -> None:
        """Training mode in which nothing is random: no dropout, no masked features.

        Drawn answers are learnt from by the ratio of the policy to the one that drew them, so both must be the same. Layers
        whose activations are computed again stay in training mode, without which they would keep them.
        """
        self.train()
        self.model.eval()
        for module in self.model.decoder.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
                for name in ("dropout", "attention_dropout", "activation_dropout"):
                    if isinstance(getattr(module, name, None), float):  # a layer that drops out by itself (OPT's)
                        setattr(module, name, 0.0)

    def _grouped_mm_can_dispatch(self) -> bool:
        return True  # what experts are computed by was settled when the language model, whose configuration this is, was loaded

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
        compute: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Next-token logits (B, L or `logits_to_keep`, vocabulary).

        Args:
            input_ids: (B, L), with the placeholder's id once for every token of sound.
            audio_features: (B, S, T, D) encoder features; audio_lengths: (B,) their frames.
            compute: what is computed with this model in place of logits, and returned. Autocast, DDP, FSDP and DeepSpeed
                hook onto `forward`, and onto nothing else, so what trains the model must come through it, once.
        """
        if self.autocast is not None and not torch.is_autocast_enabled(self.autocast[0]):
            with torch.autocast(*self.autocast):
                return self.forward(
                    input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, audio_features,
                    audio_lengths, logits_to_keep, compute, **kwargs,
                )  # fmt: skip
        if compute is not None:
            return compute()
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
        return CausalLMOutputWithPast(logits=self.logits(hidden), past_key_values=outputs.past_key_values)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., D), as the language model has them."""
        return self.behind_head(self.lm_head(hidden))

    def token_logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Logits (..., n) in float32 of n chosen tokens, without the rest of the vocabulary."""
        with torch.autocast(hidden.device.type, enabled=False):
            weight = self.lm_head.weight
            if isinstance(weight, DTensor):  # FSDP spreads a head of its own, and gathers it only for its own forward
                weight = weight.full_tensor()
            logits = hidden.float() @ weight[token_ids].float().T
            if (bias := getattr(self.lm_head, "bias", None)) is not None:
                bias = bias.full_tensor() if isinstance(bias, DTensor) else bias
                logits = logits + bias[token_ids].float()
            return self.behind_head(logits)
