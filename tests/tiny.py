"""Tiny random models with everything a real one has: chat template, end token, digits of one token each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from shala_audio.models.config import ModelConfig
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Label, Task

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_lm(folder: Path, width: int = 32) -> Path:
    """Every byte is a token, so that every label is a word of several tokens and begins with a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=1,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_tiny_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    config = WhisperConfig(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=80)
    encoder = WhisperEncoder(config)
    torch.nn.init.normal_(encoder.embed_positions.weight, std=0.5)
    encoder.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


LABELS = (Label("anger", "angry"), Label("disgust", "disgust"), Label("disapproval", "disapproval"))
TEXT_TASK = Task("tiny_text", "text", LABELS, "{{ text.comment }}", "Feeling:")
ASKED_TASK = Task(
    "tiny_asked", "text", (Label("yes", "yes"), Label("no", "no")), "{{ text.comment }} {{ text.label }}?", "Fits:",
    asked=LABELS,
)  # fmt: skip
SPEECH_TASK = Task("tiny_speech", "audio", LABELS, "{{ audio }} how?", "It sounds")


def make_tiny_bert(folder: Path, words: Sequence[str]) -> Path:
    """Writes a text encoder of random weights, for texts of up to 16 of the given words, and its tokenizer."""
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words)))
    BertTokenizerFast(str(vocabulary), model_max_length=16).save_pretrained(folder)
    config = BertConfig(
        vocab_size=5 + len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def tiny_config(lm: Path, encoder: Path | None = None, lora_r: int = 4) -> ModelConfig:
    layers = (1, 2) if encoder else ()
    return ModelConfig(
        str(lm),
        str(encoder) if encoder else None,
        layers,
        frame_stack=4,
        projector_width=16,
        lora_r=lora_r,
        lora_alpha=8,
        system_prompt="",
    )


def tiny_model(
    lm: Path,
    encoder: Path | None = None,
    readout: str = "label_token",
    lora_r: int = 4,
    seed: int = 0,
    task: Task | None = None,
) -> SpeechLM:
    """A speech model where an encoder is given, else a text model. LoRA starts away from zero, so that it matters."""
    torch.manual_seed(seed)
    task = task or (SPEECH_TASK if encoder else TEXT_TASK)
    model = SpeechLM.build(tiny_config(lm, encoder, lora_r), task, readout)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def random_features(count: int, frames: list[int] | None = None, seed: int = 0) -> list[torch.Tensor]:
    """Features (S = 2, T, D = 16) of clips of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = frames or [7 + 5 * index for index in range(count)]
    return [torch.randn(2, length, 16, generator=generator) for length in lengths]


def make_tiny_wave_encoder(folder: Path, kind: str, norm: str = "group") -> Path:
    """A random two-layer wav2vec 2.0, HuBERT or WavLM; `norm` "layer" is how their large versions are built."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        conv_bias=norm == "layer",
    )
    AutoModel.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=norm == "layer").save_pretrained(folder)
    return folder


def plain_log_probs(lm: Any, ids: list[int], words: Sequence[Sequence[int]]) -> list[float]:
    """Log-probabilities of the labels by a forward pass for each token, renormalised at every place where words part."""
    found = []
    for word in words:
        total = 0.0
        for depth in range(len(word)):
            choices = sorted({other[depth] for other in words if other[:depth] == word[:depth]})
            logits = lm(input_ids=torch.tensor([[*ids, *word[:depth]]])).logits[0, -1, choices]
            total += logits.float().log_softmax(dim=0)[choices.index(word[depth])].item()
        found.append(total)
    return found


def label_log_probs(model: SpeechLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, K) log-probabilities of the labels."""
    return model.readout.log_probs(batch)[0]
