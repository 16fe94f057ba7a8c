"""What a speech language model is made of, read from a YAML file in `configs/models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from shala_audio.errors import UserError
from shala_audio.io import config_path, read_yaml
from shala_audio.models.pretrained import base_sha256


@dataclass(frozen=True)
class ModelConfig:
    """A language model, and the audio adapter in front of it.

    Attributes:
        lm: causal language model: the name of a default model, a folder, or a hub id.
        encoder: audio encoder in the same way, or "fbank"; None for a model of text alone.
        encoder_layers: hidden states that learnt weights mix (0 is what enters the first layer).
        encoder_trained_layers: how many of the topmost of these layers are trained; the others stay frozen.
        cache_trained_layers: whether the feature cache also keeps the trained layers as they were, which classifiers on the frozen
            encoder need; without, one layer is kept of an encoder whose top is trained.
        encoder_lora_r: rank of LoRA on these layers, which keeps what is learnt small; 0 trains all their weights.
        trim_db: leave out silence at both ends of a clip: frames so many dB softer than its loudest; None keeps it.
        loudness_db: make each clip's speech this loud, in dB of full scale (-26, say), so that the gain of a recording counts
            for nothing; None leaves it as it is.
        spec_augment: in training, hide spans of time and of channels of the features.
        projector: how frames become tokens: stack, conv or qformer.
        frame_stack: encoder frames that become one token.
        projector_width: hidden width of the projector.
        summary_token: put attentive statistics of the whole clip before its tokens, and let the label words read them directly too.
        audio_projector: of an audio LLM, which is `lm` and `encoder` in one (`audio_lm` in a YAML file): frozen keeps its sound
            tokens in the feature cache, trained keeps what enters its projector, which goes on learning. "" where it is none.
        lora_r, lora_alpha: LoRA on every linear layer of the language model; r = 0 leaves it frozen.
        system_prompt: system message; "" keeps a chat template from putting in one of its own, where it has a place for it;
            None leaves it to the template.
        chat_template: Jinja chat template in place of the language model's own; "" writes plain text, as for a base model; None leaves
            it as it is.
        chat_template_kwargs: variables of the chat template, such as `enable_thinking`, which is false where not given.
        weights: of the language model, which stay as they are: auto holds them as they were published where products are
            computed in bfloat16 anyway, in half the memory; float32 never; 4bit rounds those of its linear layers to four bits
            (NF4 of QLoRA, arXiv 2305.14314), which LoRA then learns on.
    """

    lm: str
    encoder: str | None = None
    encoder_layers: tuple[int, ...] = ()
    encoder_trained_layers: int = 0
    encoder_lora_r: int = 0
    cache_trained_layers: bool = True
    trim_db: float | None = None
    loudness_db: float | None = None
    spec_augment: bool = False
    projector: str = "stack"
    frame_stack: int = 8
    projector_width: int = 768
    summary_token: bool = False
    audio_projector: str = ""
    lora_r: int = 16
    lora_alpha: int = 32
    system_prompt: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "auto"

    def cached_layers(self) -> list[int]:
        """Layers whose output the feature cache keeps: those that are mixed, and what enters the first trained one.

        The mixed layers that are trained are kept as they were before, unless `cache_trained_layers` is off.
        """
        if not self.encoder_trained_layers:
            return sorted(set(self.encoder_layers))
        start = max(self.encoder_layers) - self.encoder_trained_layers
        kept = [layer for layer in self.encoder_layers if self.cache_trained_layers or layer < start]
        return sorted({*kept, start})

    def encoder_identity(self, weights: str | None = None) -> dict[str, Any]:
        """What features depend on; stored with them. `weights`: sha256 of those of a model's encoder; where None, those
        that its name stands for here."""
        weights = base_sha256(str(self.encoder)) if weights is None else weights
        return {
            "encoder": self.encoder,
            "layers": self.cached_layers(),
            "trim_db": self.trim_db,
            "loudness_db": self.loudness_db,
            "weights": weights,
        }

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "encoder_layers": list(self.encoder_layers)}
        usual = ModelConfig(self.lm)
        for name in (
            "cache_trained_layers",
            "loudness_db",
            "weights",
            "summary_token",
            "chat_template",
            "chat_template_kwargs",
        ):
            if values[name] == getattr(usual, name):  # said only where it is another
                del values[name]
        if self.audio_projector:
            return {"audio_lm": self.lm} | {name: value for name, value in values.items() if name not in OF_ENCODER}
        del values["audio_projector"]
        return values


PROJECTORS = ("stack", "conv", "qformer")
AUDIO_PROJECTORS = {
    "frozen": (1,),
    "trained": (0,),
}  # the projector is the one layer: what leaves it is cached, or what enters
# What an audio LLM has of its own.
OF_ENCODER = (
    "lm", "encoder", "encoder_layers", "encoder_trained_layers", "encoder_lora_r", "cache_trained_layers", "spec_augment",
    "projector", "frame_stack", "projector_width", "summary_token",
)  # fmt: skip
WEIGHTS = ("auto", "float32", "4bit")


def model_config_from_dict(values: Mapping[str, Any], source: str) -> ModelConfig:
    """Check the fields and build the configuration.

    Raises:
        UserError: a field is unknown, missing or wrong; the message names `source`.
    """
    known = {"audio_lm", *(one.name for one in fields(ModelConfig))}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{source}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if "audio_lm" in values:
        values = _of_audio_llm(values, source)
    elif values.get("audio_projector"):
        raise UserError(f"{source}: audio_projector goes with audio_lm")
    if not isinstance(values.get("lm"), str):
        raise UserError(f"{source}: `lm` is needed: a default model's name, a folder or a hub id")
    layers = values.get("encoder_layers") or ()
    if not isinstance(layers, (list, tuple)) or not all(type(layer) is int and layer >= 0 for layer in layers):
        raise UserError(f"{source}: encoder_layers is {layers!r}; a list of whole numbers is needed, such as [3, 4, 5]")
    config = ModelConfig(**{**values, "encoder_layers": tuple(layers)})
    least = {"frame_stack": 1, "projector_width": 1, "lora_r": 0, "lora_alpha": 0, "encoder_lora_r": 0}
    for name, low in least.items():
        if type(getattr(config, name)) is not int or getattr(config, name) < low:
            raise UserError(f"{source}: {name} is {getattr(config, name)!r}; a whole number of {low} or more is needed")
    for name in ("spec_augment", "cache_trained_layers", "summary_token"):
        if type(getattr(config, name)) is not bool:
            raise UserError(f"{source}: {name} is {getattr(config, name)!r}; use true or false")
    kwargs = config.chat_template_kwargs
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise UserError(f"{source}: chat_template_kwargs is {kwargs!r}; names and values are needed")
    if taken := sorted({"messages", "add_generation_prompt", "tokenize", "chat_template"} & set(kwargs)):
        raise UserError(f"{source}: chat_template_kwargs: {taken[0]} is not to be set")
    for name in ("system_prompt", "chat_template"):
        if not isinstance(value := getattr(config, name), (str, type(None))):
            raise UserError(f"{source}: {name} is {value!r}; a text is needed")
    if config.encoder and not config.encoder_layers:
        raise UserError(f"{source}: encoder_layers is empty; name the layers to mix")
    if config.weights not in WEIGHTS:
        raise UserError(f"{source}: weights is {config.weights!r}; use one of {', '.join(WEIGHTS)}")
    if config.weights == "4bit" and config.audio_projector:
        raise UserError(f"{source}: weights 4bit does not go with audio_lm")
    if config.projector not in PROJECTORS:
        raise UserError(f"{source}: projector is {config.projector!r}; use one of {', '.join(PROJECTORS)}")
    if config.projector == "qformer" and config.projector_width % 8:
        raise UserError(f"{source}: projector_width is {config.projector_width}; qformer needs a multiple of 8")
    deepest = max(config.encoder_layers, default=0)
    if type(config.encoder_trained_layers) is not int or not 0 <= config.encoder_trained_layers <= deepest:
        raise UserError(f"{source}: encoder_trained_layers must be a whole number from 0 to {deepest}")
    if config.trim_db is not None and (type(config.trim_db) not in (int, float) or not config.trim_db > 0):
        raise UserError(f"{source}: trim_db is {config.trim_db!r}; dB below the loudest frame, above 0, are needed")
    loudness = config.loudness_db
    if loudness is not None and not (type(loudness) in (int, float) and -100 <= loudness <= 0):
        raise UserError(
            f"{source}: loudness_db is {loudness!r}; dB of full scale from -100 to 0, such as -26, are needed"
        )
    if config.audio_projector == "frozen" and config.lora_r < 1:
        raise UserError(f"{source}: lora_r is 0 and audio_projector frozen: nothing would be trained")
    if not config.encoder and config.lora_r < 1:
        raise UserError(f"{source}: lora_r is 0 and there is no encoder: nothing would be trained")
    return config


def _of_audio_llm(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a model whose language model and encoder are an audio LLM."""
    if own := sorted(set(values) & set(OF_ENCODER)):
        raise UserError(f"{source}: {own[0]} does not go with audio_lm, which has its own")
    if not isinstance(values["audio_lm"], str):
        raise UserError(f"{source}: audio_lm is {values['audio_lm']!r}; a folder or a hub id is needed")
    projector = values.get("audio_projector", "frozen")
    if not isinstance(projector, str) or projector not in AUDIO_PROJECTORS:
        raise UserError(f"{source}: audio_projector is {projector!r}; use one of {', '.join(AUDIO_PROJECTORS)}")
    rest = {name: value for name, value in values.items() if name != "audio_lm"}
    both = {"lm": values["audio_lm"], "encoder": values["audio_lm"], "encoder_layers": AUDIO_PROJECTORS[projector]}
    return {**rest, **both, "audio_projector": projector}


def load_model_config(name_or_path: str) -> ModelConfig:
    """Read a model's YAML by the name of a file in `configs/models`, or by path.

    >>> load_model_config("speech").frame_stack
    8
    """
    path = config_path("models", name_or_path)
    return model_config_from_dict(read_yaml(path), str(path))
