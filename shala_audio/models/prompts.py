"""From rows to the tensors a model takes: prompts, their tokens, and the encoder features beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from torch import Tensor

from shala_audio.audio.features import pad_features
from shala_audio.errors import UserError
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import AUDIO_TOKEN
from shala_audio.votes import to_distribution


class PromptBuilder:
    """Prompts and batches for one model.

    Args:
        model: whose task, readout, chat template and frame stacking are used.
    """

    def __init__(self, model: SpeechLM) -> None:
        self.tokenizer = model.tokenizer
        self.task, self.readout, self.examples = model.task, model.readout, model.examples
        self.audio_adapter = model.model.audio_adapter
        self.system_prompt = model.model_config.system_prompt
        self.control_tokens = sorted({*self.tokenizer.all_special_tokens, AUDIO_TOKEN})
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def prompt(self, text: Mapping[str, str], frames: int | None) -> str:
        """The whole text before the answer, in the language model's chat format.

        Args:
            text: the row's text fields.
            frames: encoder frames T of its sound, if the task has sound.
        """
        messages = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        for example in self.examples:
            answer = self.readout.write(to_distribution(example["votes"], self.task.label_names))
            messages += [self._user(example["text"]), {"role": "assistant", "content": answer}]
        messages.append(self._user(text))
        try:
            prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (TemplateError, ValueError) as error:  # there is none, or it does something forbidden
            raise UserError(f"the language model's chat template cannot be used ({error})") from None
        if frames is not None:
            if (times := prompt.count(AUDIO_TOKEN)) != 1:
                raise UserError(f"task {self.task.name}: the prompt places the sound {times} times; once is needed")
            prompt = prompt.replace(AUDIO_TOKEN, self.placeholders(frames))
        return prompt + self.readout.answer_start

    def placeholders(self, frames: int) -> str:
        """One for each token that T frames become."""
        assert self.audio_adapter is not None
        return AUDIO_TOKEN * self.audio_adapter.token_count(frames)

    def _user(self, text: Mapping[str, str]) -> dict[str, str]:
        question = self.task.question({name: self._plain(value) for name, value in text.items()})
        return {"role": "user", "content": self.readout.question(question)}

    def _plain(self, text: str) -> str:
        """Text in which no control token stands: a row must not end its own turn or make room for sound."""
        for token in self.control_tokens:
            text = text.replace(token, " ".join(token))
        return text

    def token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Tokens of prompts, nothing added and nothing cut."""
        return self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]

    def batch(self, prompts: Sequence[str], features: Sequence[Tensor] | None = None) -> dict[str, Any]:
        """Left-padded `input_ids`, `attention_mask` (B, L), and the padded features with their lengths.

        Raises:
            UserError: a prompt is longer than the language model was made for.
        """
        tokens = self.token_ids(prompts)
        if self.longest and (most := max(map(len, tokens))) > self.longest:
            raise UserError(f"a prompt of {most:,} tokens; the language model takes {self.longest:,}: shorten the text")
        batch: dict[str, Any] = dict(
            self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt", padding_side="left")
        )
        if features is not None:
            batch["audio_features"], batch["audio_lengths"] = pad_features(features)
        return batch
