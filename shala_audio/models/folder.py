"""What stands in a model's folder, and the small files by which transformers and the hub know what it is. No torch."""

from __future__ import annotations

from typing import Any

from shala_audio.audio.io import SAMPLE_RATE
from shala_audio.task import Task

MODEL_TYPE = "shala_audio"
SETTINGS, TRAINED = "shala.json", "trained.safetensors"  # what it is made of, and the parameters that were trained
CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer_config.json"
CARD = "README.md"


def hub_files(task: Task) -> dict[str, dict[str, Any]]:
    """Contents of `config.json`, and of `preprocessor_config.json` for sound or `tokenizer_config.json` for text, by name."""
    labels = task.label_names
    files: dict[str, dict[str, Any]] = {
        CONFIG: {
            "model_type": MODEL_TYPE,
            "architectures": ["DistributionModel"],
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    }
    if task.has_audio:
        files[PREPROCESSOR] = {"feature_extractor_type": "SoundExtractor", "sampling_rate": SAMPLE_RATE}
    else:
        # Texts go to the model as bytes; a "</s>" in one is not the end of it.
        files[TOKENIZER] = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0, "split_special_tokens": True}
    return files
