"""A language model and its tokenizer, as they were published."""

from __future__ import annotations

import os

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from shala_audio.errors import UserError, first_line
from shala_audio.models.sources import locate
from shala_audio.tasks import AUDIO_TOKEN


def load_language_model(
    name: str, sha256: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The model, its tokenizer, prepared for sound, and where they were found.

    Args:
        name: as in a model's configuration.
        sha256: of the weights, where they must be certain ones.
        dtype: of the weights in memory.

    Raises:
        UserError: they cannot be loaded.
    """
    source = locate(name, sha256=sha256)
    if not torch.accelerator.is_available():
        # Several heads share keys and values: attention on CPUs reads them where they are, but transformers copies
        # them for each head unless told so. The same numbers and time, but 0.7 of the memory of a `slots` step.
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    try:
        lm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"lm {name}: cannot be loaded ({first_line(error)})") from None
    prepare_tokenizer(tokenizer)
    return lm, tokenizer, source


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad on the left, and know the placeholder for sound. Its id may lie beyond the embedding table: it is replaced
    before the table is read."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.convert_tokens_to_ids(AUDIO_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False)
