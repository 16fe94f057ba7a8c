"""Pretrained audio LLMs, tiny and random, against their own forward; real processors, and models as they are saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen3ASRFeatureExtractor,
    WhisperFeatureExtractor,
)

import shala_audio
from shala_audio.audio.audio_llm import AudioLLMEncoder, audio_llm_class, load_audio_llm
from shala_audio.audio.encoders import load_encoder
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.manifest import Audio
from shala_audio.models.config import model_config_from_dict
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.config import GrpoConfig
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.direct import DirectTrainer
from shala_audio.training.grpo import GrpoTrainer
from shala_audio.votes import vote_counts
from tests.tiny import SPEECH_TASK, make_tiny_lm
from tests.training.helpers import TinyStore, config, tiny_rows

SOUND = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
TOWER = dict(
    num_mel_bins=128,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=64,
    d_model=32,
    max_source_positions=1500,
)
FAMILIES = ("Qwen2Audio", "AudioFlamingo3", "Qwen3ASR", "Qwen2_5OmniThinker")


class ListeningProcessor(Qwen2_5OmniProcessor):
    """Without the parts for pictures, which need torchvision."""

    def __init__(self, feature_extractor: Any, tokenizer: Any) -> None:
        transformers.ProcessorMixin.__init__(self, feature_extractor, tokenizer)
        for name, token in SOUND.items():
            setattr(self, name, token)
        self.audio_token_id = tokenizer.convert_tokens_to_ids(self.audio_token)
        self.image_token = self.video_token = "-"


def make(family: str, folder: Path) -> Path:
    make_tiny_lm(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens=SOUND)
    text = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    place = tokenizer.convert_tokens_to_ids(SOUND["audio_token"])
    of_family = {
        "Qwen2Audio": {"audio_config": {"model_type": "qwen2_audio_encoder", **TOWER}, "audio_token_index": place},
        "AudioFlamingo3": {
            "audio_config": {
                "model_type": "audioflamingo3_encoder", "num_mel_bins": 128, "hidden_size": 32, "intermediate_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 4,
            },
            "audio_token_id": place,
        },
        "Qwen3ASR": {"audio_config": {**TOWER, "output_dim": 64, "downsample_hidden_size": 16}, "audio_token_id": place},
        "Qwen2_5OmniThinker": {
            "audio_config": {**TOWER, "n_window": 100, "output_dim": 64},
            "vision_config": {
                "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 4, "out_hidden_size": 64,
                "fullatt_block_indexes": [0],
            },
            "audio_token_index": place,
        },
    }[family]  # fmt: skip
    of_text: dict[str, Any] = {
        "Qwen3ASR": {"model_type": "qwen3", "head_dim": 16},
        "Qwen2_5OmniThinker": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
        },
    }.get(family, {"model_type": "qwen2"})
    config = getattr(transformers, f"{family}Config")(text_config={**text, **of_text}, **of_family)
    config.vision_start_token_id = place + 3
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForConditionalGeneration")(config).save_pretrained(folder)
    if family != "Qwen2_5OmniThinker":
        kind = getattr(transformers, f"{family}Processor")
        more = {"audio_token": SOUND["audio_token"]} if family == "AudioFlamingo3" else {}
        extractor = Qwen3ASRFeatureExtractor() if family == "Qwen3ASR" else WhisperFeatureExtractor(feature_size=128)
        processor = kind(extractor, tokenizer, **more)
        processor.chat_template = tokenizer.chat_template
        processor.save_pretrained(folder)
    else:
        WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    where = make(request.param, tmp_path_factory.mktemp("audio_llm"))
    if request.param == "Qwen2_5OmniThinker":
        patch = pytest.MonkeyPatch()
        extractor = WhisperFeatureExtractor.from_pretrained(where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
        processor = ListeningProcessor(extractor, tokenizer)
        patch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: processor)
        yield where
        patch.undo()
    else:
        yield where


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, samples).astype(np.float32) for samples in (48_000, 20_000)]


def config_of(folder: Path, **more: Any):
    return model_config_from_dict(
        {"audio_lm": str(folder), "lora_r": 2, "lora_alpha": 4, "system_prompt": "", **more}, "here"
    )


def own_answers(folder: Path, model: SpeechLM) -> torch.Tensor:
    """(B, K) log-probabilities of the label words by the audio LLM's own forward, its own processor before it."""
    own, processor = load_audio_llm(str(folder), torch.float32)
    builder, rows = PromptBuilder(model), []
    words = [list(word) for word in model.readout.words]
    for clip in clips():
        sound = SOUND["audio_token"].join(model.model.audio_adapter.around)
        one = builder.prompt({}, 1).replace(builder.placeholders(1), sound)
        row = []
        for word in words:
            inputs = processor(text=[one], audio=[clip], sampling_rate=16_000, return_tensors="pt")
            tail = torch.tensor([word])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
            inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(tail)], dim=1)
            with torch.no_grad():
                logits = own(**inputs).logits[0, -len(word) - 1 : -1]
            total = 0.0
            for place, token in enumerate(word):
                siblings = sorted({other[place] for other in words if other[:place] == word[:place]})
                if len(siblings) > 1:
                    total += float(logits[place][siblings].log_softmax(-1)[siblings.index(token)])
            row.append(total)
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("projector", ["frozen", "trained"])
def test_answers_are_those_of_its_own_forward(folder, projector):
    model, encoder = SpeechLM._build(
        config_of(folder, audio_projector=projector), SPEECH_TASK, "label_token", torch.float32, False
    )
    model.eval()
    features = encoder.encode(clips())
    builder = PromptBuilder(model)
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in features], features)
    with torch.no_grad():
        ours, _ = model.readout.log_probs(batch)
    torch.testing.assert_close(ours, own_answers(folder, model), atol=1e-5, rtol=0)
    layers = {type(layer).__name__ for layer in model.model.decoder.layers}
    assert layers <= set(model._no_split_modules), "FSDP wraps what is there"


def test_an_encoder_alone_hears_the_same(folder):
    """As `shala-audio features` loads it, without the decoder; a clip does not depend on its neighbours."""
    config = config_of(folder, audio_projector="trained")
    _, beside = SpeechLM._build(config, SPEECH_TASK, "label_token", torch.float32, False)
    alone = load_encoder(str(folder), config.cached_layers())
    assert isinstance(alone, AudioLLMEncoder) and len(alone.model.get_decoder().layers) == 0
    for one, other in zip(beside.encode(clips()), alone.encode(clips()[::-1])[::-1], strict=True):
        torch.testing.assert_close(one, other)
    assert alone.encode([np.zeros(400, np.float32)])[0].shape[1] > 0
    with pytest.raises(UserError, match=r"31\.0 s of sound"):
        alone.encode([np.zeros(31 * 16_000, np.float32)])


@pytest.mark.parametrize("projector", ["frozen", "trained"])
@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_it_learns_is_saved_and_answers_clips(tmp_path, projector, readout):
    base = make("Qwen2Audio", tmp_path / "base")
    model = SpeechLM.build(config_of(base, audio_projector=projector), SPEECH_TASK, readout)
    encoder = load_encoder(str(base), model.model_config.cached_layers())
    sounds = clips()
    rows = [replace(row, audio=Audio(f"{n % 2}.wav")) for n, row in enumerate(tiny_rows(model)[0])]
    heard = encoder.encode(sounds)
    store = TinyStore({row.id: heard[n % 2].half() for n, row in enumerate(rows)})
    dataset, settings = build_dataset(rows, model, store), config(tmp_path / "out", readout=readout, max_steps=1)
    kind = GrpoTrainer if isinstance(settings, GrpoConfig) else DirectTrainer
    weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), settings.ambiguity_settings())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kind(model, settings, dataset, Batcher(model, store), weights).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    if readout != "verbalized":  # whose random answers may all be refused alike
        assert any("lora" in name for name in changed)
        assert any("projector" in name for name in changed) == (projector == "trained")
    assert changed <= set(model.trained_names())
    model.save_pretrained(tmp_path / "saved")
    loaded = shala_audio.load(str(tmp_path / "saved"), device="cpu")
    answers = loaded.predict_batch([(sound, 16_000) for sound in sounds])
    inputs = PromptBuilder(model)
    batch = inputs.batch([inputs.prompt({}, clip.shape[1]) for clip in heard], [clip.half() for clip in heard])
    with torch.no_grad():
        expected = model.eval().readout.predict(batch).probs
    np.testing.assert_allclose([answer.probs for answer in answers], expected, atol=1e-4)


def test_of_a_model_that_can_speak_the_part_that_listens_is_taken(tmp_path):
    """As Qwen2.5-Omni is published: weights under `thinker.`, beside those of its voice."""
    folder = make("Qwen2_5OmniThinker", tmp_path)
    weights, settings = folder / "model.safetensors", read_json(folder / "config.json")
    own = load_file(weights)
    voice = {"talker.model.norm.weight": torch.ones(4)}
    save_file({f"thinker.{name}": p for name, p in own.items()} | voice, weights, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": settings}))
    kind = audio_llm_class(transformers.AutoConfig.from_pretrained(folder))
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and model.get_decoder().layers[0].mlp.down_proj.weight.equal(
        own["model.layers.0.mlp.down_proj.weight"]
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoder": "whisper-base"}, "encoder does not go with audio_lm"),
        ({"audio_projector": "thawed"}, "use one of frozen, trained"),
        ({"lora_r": 0}, "nothing would be trained"),
    ],
)
def test_settings_that_an_audio_llm_cannot_have(fields, words):
    with pytest.raises(UserError, match=words):
        model_config_from_dict({"audio_lm": "a", **fields}, "here")


def test_a_projector_without_an_audio_llm_is_refused():
    with pytest.raises(UserError, match="goes with audio_lm"):
        model_config_from_dict({"lm": "a", "audio_projector": "frozen"}, "here")


def test_a_language_model_alone_is_no_audio_llm(tiny_lm):
    with pytest.raises(UserError, match="is llama, which takes no sound"):
        SpeechLM.build(config_of(tiny_lm), SPEECH_TASK, "label_token")


def test_settings_go_to_a_folder_and_back(tmp_path):
    written = config_of(tmp_path, audio_projector="trained")
    assert model_config_from_dict(written.to_dict(), "there") == written
