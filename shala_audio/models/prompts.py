"""From rows to the tensors a model takes: prompts, their tokens, and the encoder features beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from shala_audio.audio.features import pad_features
from shala_audio.errors import UserError
from shala_audio.models.readouts.verbalized import THOUGHTS
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import AUDIO_TOKEN
from shala_audio.votes import to_distribution

# Templates write today's date; an answer must not change with the day. So `strftime_now` is Friday, 26 July 2024, in them.
DAY = {"%d": "26", "%-d": "26", "%e": "26", "%b": "Jul", "%B": "July", "%m": "07", "%-m": "7", "%Y": "2024", "%y": "24"}
DAY |= {
    "%A": "Friday",
    "%a": "Fri",
    "%j": "208",
    "%H": "00",
    "%I": "12",
    "%M": "00",
    "%S": "00",
    "%p": "AM",
    "%Z": "UTC",
}
FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{code}', '{value}')" for code, value in DAY.items())
    + " }}{%- endmacro -%}"
)
ALWAYS = {"enable_thinking": False, "date_string": "26 Jul 2024"}  # variables of templates; the answer follows at once


def _holds(prompt: str, texts: Sequence[str]) -> bool:
    """Whether texts stand in a prompt, one after the other, whatever became of the space in them."""
    left = "".join(prompt.split())
    for text in texts:
        _, found, left = left.partition("".join(text.split())) if text.strip() else ("", "-", left)
        if not found:
            return False
    return True


def _without_open_thought(prompt: str) -> str:
    """A prompt whose template has begun a thought, with the thought ended."""
    begun = {begin: prompt.rfind(begin) for begin in THOUGHTS}
    begin = max(begun, key=lambda mark: begun[mark])
    rest = prompt[begun[begin] + len(begin) :] if begun[begin] >= 0 else ""
    if begun[begin] >= 0 and THOUGHTS[begin] not in rest and len(rest) < 40:  # and not a text that speaks of it
        return f"{prompt.rstrip()}\n\n{THOUGHTS[begin]}\n\n"
    return prompt


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
        self.chat_template = model.model_config.chat_template
        self.template_kwargs = model.model_config.chat_template_kwargs
        self.control_tokens = sorted({*self.tokenizer.all_special_tokens, AUDIO_TOKEN})
        plain = self.tokenizer("a")["input_ids"]
        begins = self.tokenizer.bos_token_id is not None and plain[:1] == [self.tokenizer.bos_token_id]
        self.beginning = self.tokenizer.bos_token if begins else ""  # without a template, which has it itself
        self.longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def prompt(self, text: Mapping[str, str], frames: int | None) -> str:
        """The whole text before the answer, in the language model's chat format.

        Args:
            text: the row's text fields.
            frames: encoder frames T of its sound, if the task has sound.
        """
        turns: list[tuple[str, str]] = []
        for example in self.examples:
            answer = self.readout.write(to_distribution(example["votes"], self.task.label_names))
            turns += [("user", self._question(example["text"])), ("assistant", answer)]
        turns.append(("user", self._question(text)))
        prompt = self._rendered(turns)
        if frames is not None:
            if (times := prompt.count(AUDIO_TOKEN)) != 1:
                raise UserError(f"task {self.task.name}: the prompt places the sound {times} times; once is needed")
            prompt = prompt.replace(AUDIO_TOKEN, self.placeholders(frames))
        return prompt + self.readout.answer_start

    def placeholders(self, frames: int) -> str:
        """One for each token that T frames become, between what an audio LLM puts around them."""
        assert self.audio_adapter is not None
        return (AUDIO_TOKEN * self.audio_adapter.token_count(frames)).join(self.audio_adapter.around)

    def _question(self, text: Mapping[str, str]) -> str:
        question = self.task.question({name: self._plain(value) for name, value in text.items()})
        return self.readout.question(question)

    def _rendered(self, turns: Sequence[tuple[str, str]]) -> str:
        """Turns in the chat format of the language model, up to where it answers; as plain text for one that has none.

        Raises:
            UserError: the template cannot be used, or leaves out what was asked.
        """
        if not (self.tokenizer.chat_template if self.chat_template is None else self.chat_template):  # a base model
            before = f"{self.system_prompt}\n\n" if self.system_prompt else ""
            return (
                self.beginning
                + before
                + "".join(f"{text}\n" if role == "user" else f"{text}\n\n" for role, text in turns)
            )
        system_prompt = self.system_prompt
        reason = ""
        # As strings, and as lists of parts, which templates of multimodal models want; an empty system message is left out
        # where there is no place for any.
        for system in dict.fromkeys([system_prompt, None if system_prompt == "" else system_prompt]):
            for in_parts in (False, True):
                try:
                    prompt = self._by_template(([] if system is None else [("system", system)]) + list(turns), in_parts)
                except Exception as error:  # whatever somebody else's program may raise
                    reason = reason or f"cannot be used ({error})"
                    continue
                texts = [text for _, text in turns]
                if _holds(prompt, [system or "", *texts]):
                    return _without_open_thought(prompt)
                if _holds(prompt, texts):
                    reason = "leaves out the system prompt"
                else:
                    reason = reason or "leaves out what is asked, which would be the same for every row"
        remedy = "give another as chat_template in the model's YAML"
        if system_prompt and ("system" in reason.lower() or "role" in reason.lower()):
            remedy = "set system_prompt: '' in the model's YAML"
        whose = (
            "the language model's chat template" if self.chat_template is None else "chat_template of the model's YAML"
        )
        raise UserError(f"{whose} {reason}; {remedy}")

    def _by_template(self, turns: Sequence[tuple[str, str]], in_parts: bool) -> str:
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text} for role, text in turns
        ]
        prompt: str = self.tokenizer.apply_chat_template(
            messages,
            chat_template=FIXED_DAY + self.tokenizer.get_chat_template(self.chat_template),
            add_generation_prompt=True,
            tokenize=False,
            **{**ALWAYS, **self.template_kwargs},
        )
        return prompt

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
