from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.verbalized import parse_answer, write_answer
from tests.tiny import tiny_model

LABELS = ("anger", "a b", "joy")


@given(st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(sum))
def test_what_is_written_is_read(percent):
    answer = write_answer(np.array(percent) / 100, LABELS)
    assert json.loads(answer) == dict(zip(LABELS, percent, strict=True))
    assert parse_answer(answer, LABELS) == pytest.approx(np.array(percent) / sum(percent))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "anger",
        "{}",
        '{"anger": 50',
        '{"anger": 50, "anger": 50}',
        '{"rage": 100}',
        '{"anger": -5, "joy": 105}',
        '{"anger": 1e400}',
        '{"anger": NaN}',
        '{"anger": 0, "joy": 0}',
        '{"anger": {"joy": 5}}',
        '{"anger": ٥٠}',
        '{"anger": 50} and more',
        '[{"anger": 50}]',
    ],
)
def test_what_states_no_distribution_is_refused(answer):
    assert parse_answer(answer, LABELS) is None


@settings(max_examples=500)
@given(st.text(alphabet='{}":, %0123456789.-eangerjoy\n', max_size=60) | st.text(max_size=60))
def test_any_text_gives_a_distribution_or_none(text):
    found = parse_answer("{" + text, LABELS)
    assert found is None or (found.sum() == pytest.approx(1) and (found >= 0).all())


@pytest.mark.parametrize(
    "answer",
    [
        '```json\n{"anger": 50, "joy": 50}\n```',
        '```\n{"anger": 50, "joy": 50}```',
        '<think>Is it {"anger": 100}?</think>\n\n{"anger": 50, "joy": 50}',
        '<think>\n</think> ```json\n{"Anger": 50, "JOY": 50}\n```\n',
        '{" anger": "50", "joy ": "50 %"}',
    ],
)
def test_answers_in_fences_after_thoughts_and_in_capitals_are_read(answer):
    """They earned 0."""
    assert parse_answer(answer, LABELS).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    "answer", ['{"anger": "50}', '<think>{"anger": 50}', '```json\n{"anger": 50}', '{"a": 50}', '{"A": 60, "a": 40}']
)
def test_no_answer_is_guessed(answer):
    assert parse_answer(answer, ("anger", "joy")) is None
    assert parse_answer('{"a": 1, "A": 3}', ("a", "A")).tolist() == [0.25, 0.75], "labels that differ in capitals alone"


def test_padding_takes_no_position(tiny_lm, tmp_path):
    """Where positions are counted from the beginning (GPT-2), a row's loss depended on how long its neighbours were."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=1, initializer_range=0.2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = tiny_model(tmp_path, readout="verbalized").eval()
    builder = PromptBuilder(model)
    prompts = [builder.prompt({"comment": comment}, None) for comment in ("oh", "a comment that is much longer")]
    human = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]])
    together = model.readout.supervised_losses(builder.batch(prompts), human)[0]
    alone = [model.readout.supervised_losses(builder.batch([prompts[row]]), human[row : row + 1])[0] for row in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_the_longest_completion_holds_every_answer_as_people_lay_json_out(tiny_lm):
    readout = tiny_model(tiny_lm, readout="verbalized").readout
    for people in (np.array([0.34, 0.33, 0.33]), np.eye(3)[2]):
        said = json.loads(readout.write(people))
        fenced = f"```json\n{json.dumps({name: f'{value}.5%' for name, value in said.items()}, indent=2)}\n```"
        for written in (readout.write(people), fenced):
            assert parse_answer(written, readout.model.task.label_names) is not None
            tokens = readout.model.tokenizer(written, add_special_tokens=False)["input_ids"]
            assert len(tokens) + 1 <= readout.longest_completion()
