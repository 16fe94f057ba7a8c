"""Prompts by the chat templates that models come with."""

from __future__ import annotations

import re
import time

import pytest
from tokenizers.processors import TemplateProcessing

from shala_audio.errors import UserError
from shala_audio.models.config import model_config_from_dict
from shala_audio.models.prompts import PromptBuilder
from shala_audio.task import Label, Task
from tests.tiny import tiny_model

TASK = Task("t", "text", (Label("yes", "yes"), Label("no", "no")), "Is it so? {{ text.comment }}", "It is:")
ROW = {"comment": "Oh no, {not} again <b>."}
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}" + START
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}" + START
)
KNOWN_ROLES = "{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}" + START
USERS_ALONE = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n{% endif %}{% endfor %}" + START
THINKING = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)
ALWAYS_THINKING = "{% for m in messages %}{{ m.content }}\n{% endfor %}<|im_start|>assistant\n<think>\n"
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today: {{ date_string }}, "
    "{{ strftime_now('%Y-%m-%d %H') }}\n{% for m in messages %}{{ m.content }}\n{% endfor %}" + START
)


def builder(tiny_lm, template, **config):
    model = tiny_model(tiny_lm, task=TASK)
    model.tokenizer.chat_template = template
    values = {**model.model_config.to_dict(), **config}
    model.model_config = model_config_from_dict(values, "m.yaml")
    return PromptBuilder(model)


@pytest.mark.parametrize("template", [PARTS, NO_SYSTEM, USERS_ALONE, THINKING, ALWAYS_THINKING, DATED, None])
def test_every_template_holds_the_rows_text(tiny_lm, template):
    """With some the text vanished, and with others nothing worked."""
    prompt = builder(tiny_lm, template, system_prompt="").prompt(ROW, None)
    assert prompt.count("Is it so? Oh no, {not} again <b>.") == 1 and prompt.endswith("It is:")


def test_a_template_that_drops_the_question_is_refused(tiny_lm):
    """Training ended with exit 0, and every row got the same answer."""
    with pytest.raises(UserError, match="leaves out what is asked, which would be the same for every row"):
        builder(tiny_lm, KNOWN_ROLES).prompt(ROW, None)


def test_a_system_prompt_that_has_no_place(tiny_lm):
    with pytest.raises(UserError, match=r"System role not supported\); set system_prompt: '' in the model's YAML"):
        builder(tiny_lm, NO_SYSTEM, system_prompt="Be brief.").prompt(ROW, None)
    with pytest.raises(UserError, match="leaves out the system prompt; set system_prompt: ''"):
        builder(tiny_lm, USERS_ALONE, system_prompt="Be brief.").prompt(ROW, None)
    assert "Be brief." in builder(tiny_lm, PARTS, system_prompt="Be brief.").prompt(ROW, None)


def test_no_thought_is_left_open(tiny_lm):
    assert "<think>\n\n</think>\n\nIt is:" in builder(tiny_lm, THINKING).prompt(ROW, None)
    assert builder(tiny_lm, ALWAYS_THINKING).prompt(ROW, None).endswith("<think>\n\n</think>\n\nIt is:")
    asked = builder(tiny_lm, THINKING, chat_template_kwargs={"enable_thinking": True})
    assert asked.prompt(ROW, None).endswith("<think>\n\n</think>\n\nIt is:"), (
        "a thought of nothing: the answer follows at once"
    )


@pytest.mark.parametrize("begin", ["<thinking>", "[THINK]", "<seed:think>\n", "<think>\nOkay,"])
def test_no_thought_of_other_models_is_left_open(tiny_lm, begin):
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}" + begin
    prompt = builder(tiny_lm, template).prompt(ROW, None)
    assert begin.strip() in prompt and re.search(r"(</thinking>|\[/THINK\]|</seed:think>|</think>)\n\nIt is:$", prompt)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages.a.b }}", {"tool_use": USERS_ALONE}])
def test_a_template_that_fails_is_one_line(tiny_lm, template):
    with pytest.raises(UserError, match="the language model's chat template"):
        builder(tiny_lm, template).prompt(ROW, None)


def test_a_system_prompt_that_says_the_same_does_not_hide_a_lost_text(tiny_lm):
    system_alone = "{{ messages[0].content }}" + START
    with pytest.raises(UserError, match="leaves out"):
        builder(tiny_lm, system_alone, system_prompt=f"Is it so? {ROW['comment']}").prompt(ROW, None)


def test_prompts_do_not_change_with_the_day(tiny_lm, monkeypatch):
    asked = builder(tiny_lm, DATED)
    first = asked.prompt(ROW, None)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    later = time.time() + 86_400 * 40
    monkeypatch.setattr(time, "time", lambda: later)
    assert asked.prompt(ROW, None) == first and "Today: 26 Jul 2024, 2024-07-26 00" in first
    changed = builder(tiny_lm, DATED, chat_template_kwargs={"date_string": "1 May 2020"})
    assert "Today: 1 May 2020" in changed.prompt(ROW, None)


def test_a_base_model_gets_plain_text_and_trains(tiny_lm):
    """It was refused, though any causal language model is taken."""
    plain = builder(tiny_lm, None, system_prompt="Judge.")
    assert plain.prompt(ROW, None) == "Judge.\n\nIs it so? Oh no, {not} again <b>.\nIt is:"


def test_the_settings_template_goes_before_the_models_own(tiny_lm):
    assert (
        builder(tiny_lm, NO_SYSTEM, chat_template="", system_prompt="Judge.")
        .prompt(ROW, None)
        .startswith("Judge.\n\nIs")
    )
    asked = builder(tiny_lm, None, chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert asked.prompt(ROW, None) == "[][Is it so? Oh no, {not} again <b>.]It is:"


def test_a_base_model_begins_with_the_token_that_it_was_trained_with(tiny_lm):
    """Gemma, Llama and Mistral say little of use without it."""
    model = tiny_model(tiny_lm, task=TASK)
    model.tokenizer.chat_template = None
    first, number = "Q", model.tokenizer.convert_tokens_to_ids("Q")
    model.tokenizer.add_special_tokens({"bos_token": first})
    assert not PromptBuilder(model).prompt(ROW, None).startswith(first), "its tokenizer adds none"
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, number)]
    )
    builder = PromptBuilder(model)
    assert builder.prompt(ROW, None).startswith(first)
    assert builder.token_ids([builder.prompt(ROW, None)])[0].count(number) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chat_template_kwargs": [1]}, r"m\.yaml: chat_template_kwargs is \[1\]; names and values are needed"),
        ({"chat_template_kwargs": {"messages": []}}, "messages is not to be set"),
        ({"system_prompt": 3}, "system_prompt is 3; a text is needed"),
        ({"chat_template": ["{{ messages }}"]}, "chat_template is .*; a text is needed"),
    ],
)
def test_wrong_settings_of_a_template(values, message):
    with pytest.raises(UserError, match=message):
        model_config_from_dict({"lm": "x", **values}, "m.yaml")
