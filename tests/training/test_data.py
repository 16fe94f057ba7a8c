from __future__ import annotations

from dataclasses import replace

import pytest

from shala_audio.audio.features import augmented_id
from shala_audio.errors import UserError
from shala_audio.manifest import Row
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import AUDIO_TOKEN
from shala_audio.training.data import Batcher, build_dataset, few_shot_examples, hard_rows, training_rows
from tests.tiny import random_features, tiny_model
from tests.training.helpers import tiny_rows


def test_rows_that_must_not_be_learnt_from(tiny_lm):
    model = tiny_model(tiny_lm)
    rows, _ = tiny_rows(model)
    assert training_rows([*rows, replace(rows[0], id="x", votes={}, speaker="x")], model) == rows
    with pytest.raises(UserError, match="s0 is in train and in test"):
        training_rows([*rows, replace(rows[0], id="y", split="test")], model)
    with pytest.raises(UserError, match="of task other"):
        training_rows([replace(rows[0], task="other")], model)
    with pytest.raises(UserError, match="no `train` row"):
        training_rows([replace(row, split="test") for row in rows], model)
    with pytest.raises(UserError, match="row bad: votes for joy"):
        build_dataset([Row("bad", "tiny_text", "train", text={"comment": "a"}, votes={"joy": 1})], model, None)


def test_hard_rows_have_their_plurality_alone(tiny_lm):
    rows, _ = tiny_rows(tiny_model(tiny_lm), 3)
    hard = hard_rows(rows, tiny_model(tiny_lm).task.label_names)
    assert [dict(row.votes) for row in hard] == [{"anger": 1}, {"disgust": 1}], "the third row's first place is shared"


@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
def test_few_shot_examples_stand_before_the_question(tiny_lm, tiny_encoder, tmp_path, readout):
    model = tiny_model(tiny_lm, readout=readout)
    rows, _ = tiny_rows(model)
    model.examples = few_shot_examples(rows, model, 3, seed=0)
    model.save_pretrained(tmp_path)
    again = SpeechLM.from_pretrained(tmp_path)
    prompt = PromptBuilder(again).prompt({"comment": "the question"}, None)
    assert prompt.count("comment number") == 3 and prompt.index("comment number") < prompt.index("the question")
    answers = {"label_token": "Feeling: ", "slots": '{"anger": ', "verbalized": '{"anger": '}
    assert prompt.count(answers[readout]) == 3
    assert few_shot_examples(rows, model, 3, seed=0) == model.examples != few_shot_examples(rows, model, 3, seed=1)
    with pytest.raises(UserError, match="few_shot_examples is 9"):
        few_shot_examples(rows, model, 9, seed=0)
    speech = tiny_model(tiny_lm, tiny_encoder)
    with pytest.raises(UserError, match="only a trained projector"):
        few_shot_examples(tiny_rows(speech)[0], speech, 2, seed=0)


def test_batches_hold_prompt_human_and_row_number(tiny_lm, tiny_encoder):
    model = tiny_model(tiny_lm, tiny_encoder)
    rows, store = tiny_rows(model, 4)
    dataset = build_dataset(rows, model, store)
    batch = Batcher(model, store)([dataset[index] for index in range(4)])
    places = (batch["prompt"]["input_ids"] == model.model.audio_token_id).sum(dim=1)
    assert places.tolist() == [-(-length // 4) for length in batch["prompt"]["audio_lengths"].tolist()]
    assert batch["human"].sum(dim=1).tolist() == pytest.approx([1] * 4)
    assert batch["row"].tolist() == list(range(len(rows)))
    assert batch["prompt"]["attention_mask"][0, 0] == 0, "padded on the left"


def test_each_pass_takes_the_next_augmentation_of_a_clip(tiny_lm, tiny_encoder):
    model = tiny_model(tiny_lm, tiny_encoder)
    rows, store = tiny_rows(model, 3)
    for row in rows[:2]:
        for number, frames in ((1, 40), (2, 21)):
            (store.features[augmented_id(row.id, number)],) = random_features(1, [frames], seed=number)
    dataset = build_dataset(rows, model, store)
    batcher = Batcher(model, store, augmentations=2)
    plain = [row["prompt"] for row in batcher.augmented(list(dataset))]
    assert plain == dataset["prompt"], "outside training the clips themselves are taken"
    taken = []
    for epoch in range(3):
        batcher.epoch = epoch
        found = batcher.augmented(list(dataset))
        for row in found:
            assert row["prompt"].count(AUDIO_TOKEN) == model.model.audio_adapter.token_count(store.frames(row["sound"]))
            assert row["prompt"].replace(AUDIO_TOKEN, "") == dataset[row["row"]]["prompt"].replace(AUDIO_TOKEN, "")
        batch = batcher(list(dataset))
        assert batch["prompt"]["audio_lengths"].tolist() == [store.frames(row["sound"]) for row in found]
        taken.append([row["sound"] for row in found])
    for clip, *others in zip(*taken, strict=True):
        assert len({clip, *others}) == (3 if clip.split("\t")[0] != "row2" else 1), "in three passes, each of them once"


def test_what_stands_around_sound_stands_there_once_in_each_pass(tiny_lm, tiny_encoder):
    """Of an audio LLM, whose sound tokens have a beginning and an end, both stood there twice wherever there were augmentations."""
    model = tiny_model(tiny_lm, tiny_encoder)
    rows, store = tiny_rows(model, 2)
    (store.features[augmented_id(rows[0].id, 1)],) = random_features(1, [40])
    model.model.audio_adapter.around = ("<begin>", "<end>")
    dataset = build_dataset(rows, model, store)
    batcher = Batcher(model, store, augmentations=1)
    for epoch in range(2):
        batcher.epoch = epoch
        for row in batcher.augmented(list(dataset)):
            assert row["prompt"].count("<begin>") == row["prompt"].count("<end>") == 1
