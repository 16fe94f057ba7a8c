"""From rows to the tensors a model takes: prompts, their tokens, and the encoder features beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from torch import Tensor

from shala_audio.audio.features import pad_features
from shala_audio.data.votes import to_distribution
from shala_audio.errors import UserError
from shala_audio.models.readouts.slots import write_slots
from shala_audio.models.readouts.verbalized import write_answer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.tasks import AUDIO_TOKEN

JSON_INSTRUCTION = "Answer in JSON with the per cent of people who would choose each of: {labels}."


class PromptBuilder:
    """Prompts and batches for one model.

    Args:
        model: whose task, readout, chat template and frame stacking are used.
    """

    def __init__(self, model: SpeechLM) -> None:
        self.tokenizer = model.tokenizer
        self.task, self.readout, self.examples = model.task, model.readout, model.examples
        self.ear = model.model.ear
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
            messages += [self._user(example["text"]), {"role": "assistant", "content": self._answer(example["votes"])}]
        messages.append(self._user(text))
        try:
            prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except (TemplateError, ValueError) as error:  # there is none, or it does something forbidden
            raise UserError(f"the language model's chat template cannot be used ({error})") from None
        if frames is not None:
            if (places := prompt.count(AUDIO_TOKEN)) != 1:
                raise UserError(f"task {self.task.name}: the prompt places the sound {places} times; once is needed")
            prompt = prompt.replace(AUDIO_TOKEN, self.places(frames))
        return prompt + (self.task.answer if self.readout == "label_token" else "")

    def places(self, frames: int) -> str:
        """A placeholder for each token that T frames become."""
        assert self.ear is not None
        return AUDIO_TOKEN * self.ear.token_count(frames)

    def _user(self, text: Mapping[str, str]) -> dict[str, str]:
        question = self.task.question({name: self._plain(value) for name, value in text.items()})
        if self.readout != "label_token":
            question += "\n" + JSON_INSTRUCTION.format(labels=", ".join(self.task.label_names))
        return {"role": "user", "content": question}

    def _answer(self, votes: Mapping[str, float]) -> str:
        """What the model is to answer where people voted so: the likeliest label's word, or the distribution."""
        human = to_distribution(votes, self.task.label_names)
        if self.readout == "label_token":
            return f"{self.task.answer} {self.task.labels[int(human.argmax())].word}"
        write = write_slots if self.readout == "slots" else write_answer
        return write(human.tolist(), self.task.label_names)

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
