from __future__ import annotations

import pytest

from shala_audio.errors import UserError
from shala_audio.io import CONFIGS
from shala_audio.task import AUDIO_TOKEN, load_task, task_from_dict

FIELDS = {"name": "t", "modality": "text", "labels": ["a", "b"], "prompt": "{{ text.x }}", "answer": "A:"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_file_is_sound(path):
    task = load_task(str(path))
    assert task.name == path.stem
    text = dict.fromkeys((*task.text_fields(), "transcript"), "words")
    assert (AUDIO_TOKEN in task.question(text)) == task.has_audio


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "video"}, "modality"),
        ({"labels": ["a"]}, "two labels"),
        ({"labels": ["a", "a"]}, "same name"),
        ({"labels": [{"name": "a", "word": "x"}, {"name": "b", "word": "x"}]}, "same word"),
        ({"labels": ["a", ""]}, "each label"),
        ({"asked": ["a", "b"]}, "in the prompt is one, and the labels are 'yes' and 'no'"),
        ({"asked": "ab"}, "asked must be a list"),
        ({"labels": [True, False]}, "need quotes in YAML"),  # yes and no, to YAML
        ({"prompt": "How?"}, "text goes in, but the prompt has no"),
        ({"colour": "red"}, "unknown fields"),
    ],
)
def test_wrong_tasks_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=f"some.yaml.*{message}"):
        task_from_dict(FIELDS | change, "some.yaml")


def test_what_a_task_does_not_have_does_not_tell_its_runs_apart():
    """Runs are known by what is shown of their task; those of earlier versions must be found again."""
    assert "asked" not in repr(load_task("mini"))


def test_a_missing_text_field_is_named():
    with pytest.raises(UserError, match="text"):
        task_from_dict(FIELDS, "some.yaml").question({})


def test_prompts_run_in_a_sandbox():
    task = task_from_dict(FIELDS | {"prompt": "{{ text }} {{ ''.__class__.__mro__ }}"}, "some.yaml")
    with pytest.raises(UserError):
        task.question({})


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="crema_d"):
        load_task("cremad")


def test_a_task_with_a_choice_of_input():
    task = load_task("msp_podcast")
    text = {"transcript": "So we left."}
    assert task.question(text) == f"{AUDIO_TOKEN} How does the speaker sound?"
    both = task.with_input("audio+text")
    assert both.question(text) == f'{AUDIO_TOKEN} The speaker says: "So we left." How does the speaker sound?'
    assert both.question({}) == task.question({}), "a turn without a transcript is heard alone"
    assert task.with_input("text").question(text) == 'The speaker says: "So we left." How does the speaker sound?'
    with pytest.raises(UserError, match="row has no text"):
        task.with_input("text").question({})
    with pytest.raises(UserError, match="no place for audio"):
        load_task("chaosnli").with_input("audio")
    with pytest.raises(UserError, match="input is 'video'"):
        task.with_input("video")


def test_an_order_is_yes_or_no():
    assert task_from_dict(FIELDS | {"ordered": True}, "some.yaml").ordered
    assert not task_from_dict(FIELDS, "some.yaml").ordered and "ordered" not in task_from_dict(FIELDS, "x").to_dict()
    with pytest.raises(UserError, match="ordered is 'up'"):
        task_from_dict(FIELDS | {"ordered": "up"}, "some.yaml")


def test_attributes_are_checked():
    with pytest.raises(UserError, match="some.yaml: each attribute"):
        task_from_dict(FIELDS | {"attributes": [{"name": "arousal", "low": 7, "high": 1}]}, "some.yaml")
    task = load_task("msp_podcast")
    assert task_from_dict(task.to_dict(), "again") == task


def test_text_fields_are_found_however_they_are_written():
    """`text['post']` was taken for no field, so an encoder read empty texts."""
    prompt = "{% if text.title %}{{ text['title'] | trim }}{% endif %} {{ text['post'] }} {{ labels[0] }}"
    assert task_from_dict({**FIELDS, "prompt": prompt}, "t.yaml").text_fields() == ("title", "post")
