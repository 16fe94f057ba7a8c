"""LeWiDi's corpora from small imitations of both editions' files, and from the real ones where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shala_audio.corpora import lewidi
from shala_audio.corpora.raters import by_rater, mean_over_raters
from shala_audio.distribution import lewidi_cross_entropy
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.task import load_task, task_from_dict
from shala_audio.votes import human_distributions

REAL = Path(__file__).parents[3] / "shared" / "data" / "lewidi"


def item(annotations, annotators="", text="Well done.", hard="0", **more):
    return {"text": text, "annotations": annotations, "annotators": annotators, "hard_label": hard, **more}


def write(folder: Path, name: str, splits) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, items in splits.items():
        numbered = {str(number): one for number, one in enumerate(items, start=1)}
        (folder / f"{name}_{split}.json").write_text(json.dumps(numbered))
    return folder


def test_the_first_form_keeps_who_chose_what(tmp_path):
    train, test = item("0,1,1", "Ann1,Ann2,Ann9", hard="1"), item("0,0", "Ann1,Ann2")
    write(tmp_path / "HS-Brexit_dataset", "HS-Brexit", {"train": [train], "test": [test]})
    rows = lewidi.prepare(tmp_path, "hs_brexit", load_task("hs_brexit")).rows
    assert [row.split for row in rows] == ["train", "test"] and len({row.id for row in rows}) == 2
    assert rows[0].votes == {"no hate speech": 1, "hate speech": 2} and rows[0].text == {"text": "Well done."}
    assert rows[0].extra["raters"] == {"Ann1": ["no hate speech"], "Ann2": ["hate speech"], "Ann9": ["hate speech"]}
    assert rows[0].extra["hard_label"] == "hate speech"


def test_severities_of_abuse_are_two_labels(tmp_path):
    said = json.dumps({"prev_agent": "Hi.", "prev_user": "Hm.", "agent": "Yes?", "user": "Go away."})
    one = item("-3,0,1,-1", "Ann1,Ann2,Ann3,Ann4", text=said, hard="1")
    rows = lewidi.prepare(write(tmp_path, "ConvAbuse", {"train": [one]}), "conv_abuse", load_task("conv_abuse")).rows
    assert rows[0].votes == {"abusive": 2, "not abusive": 2} and rows[0].text["user"] == "Go away."
    assert rows[0].extra["hard_label"] == "abusive"
    assert "Go away." in load_task("conv_abuse").question(rows[0].text)


def test_the_second_form_has_objects_and_several_labels(tmp_path):
    text = {"context": "A man sings.", "statement": "A man makes a sound."}
    one = {
        "text": text,
        "annotations": {"Ann1": "entailment,neutral", "Ann2": "neutral"},
        "soft_label": {},
        "lang": "en",
    }
    hidden = {"text": text, "annotations": {"Ann1": ""}, "annotators": "Ann1", "split": "test"}
    source = write(tmp_path, "VariErrNLI", {"train": [one], "test_clear": [hidden]})
    prepared = lewidi.prepare(source, "varierrnli", load_task("varierrnli"))
    assert prepared.rows[0].votes == {"entailment": 0.5, "neutral": 1.5} and not prepared.rows[1].votes
    assert "1 items have no annotations" in prepared.caveat
    assert prepared.rows[0].extra["raters"]["Ann1"] == ["entailment", "neutral"]
    assert "A man sings." in load_task("varierrnli").question(prepared.rows[0].text)


def test_broken_files_beside_it_do_no_harm(tmp_path):
    source = write(
        tmp_path, "CSC", {"train": [item({"Ann1": "6", "Ann2": 5}, text={"context": "Hm.", "response": "Oh."})]}
    )
    (source / "CSC_annotators_meta.json").write_text('{"Ann1": {"age": 3,},}')
    assert lewidi.prepare(source, "csc", load_task("csc")).rows[0].votes == {"6": 1, "5": 1}


def test_a_rater_who_stands_there_twice_counts_twice(tmp_path):
    """As in the official soft label of a few items of MD-Agreement."""
    source = write(tmp_path, "MD-Agreement", {"train": [item("0,1,1", "Ann1,Ann2,Ann1")]})
    row = lewidi.prepare(source, "md_agreement", load_task("md_agreement")).rows[0]
    assert row.votes == {"not offensive": 1, "offensive": 2} and set(row.extra["raters"]) == {
        "Ann1",
        "Ann2",
        "Ann1 (2)",
    }


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("hs_brexit", '{"1": {"text": "a", "annotations": "0,7", "annotators": "x,y"}}', "item '1': '7' is no label"),
        ("hs_brexit", '{"1": {"text": "a", "annotations": "0,1", "annotators": "x"}}', "2 annotations by 1"),
        ("hs_brexit", '{"1": {"annotations": "0", "annotators": "x"}}', "not of LeWiDi"),
        ("hs_brexit", '{"1": {"text": "a",}}', "not JSON"),
        ("hs_brexit", "[1]", "not of LeWiDi"),
        ("armis", "{}", "no file armis_train.json; there are hsbrexit"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, part, content, message):
    (tmp_path / "HS-Brexit_train.json").write_text(content)
    with pytest.raises(UserError, match=message):
        lewidi.prepare(tmp_path, part, load_task(part))


@pytest.mark.parametrize("part", lewidi.PARTS)
def test_every_part_has_a_task(part):
    task = load_task(part)
    assert set(lewidi.NAMES.get(part, {}).values()) <= set(task.label_names)
    assert task.ordered == (part in ("csc", "paraphrase"))


@pytest.mark.skipif(not REAL.is_dir(), reason="LeWiDi 2023 is not here")
@pytest.mark.parametrize(
    ("part", "folder", "sizes", "own", "constant"),
    [
        ("hs_brexit", "HS-Brexit", (784, 168, 168), 0.181, 0.388),
        ("armis", "ArMIS", (657, 141, 145), 0.232, 0.684),
        ("conv_abuse", "ConvAbuse", (2398, 812, 840), 0.086, 0.453),
        ("md_agreement", "MD-Agreement", (6592, 1104, 3057), 0.337, 0.653),
    ],
)
def test_real_corpora_give_the_official_soft_labels(part, folder, sizes, own, constant):
    task = load_task(part)
    rows = lewidi.prepare(REAL, part, task).rows
    assert tuple(sum(row.split == split for row in rows) for split in ("train", "dev", "test")) == sizes
    human = human_distributions(rows, task.label_names)
    official = []
    for split in ("train", "dev", "test"):
        items = read_json(REAL / f"{folder}_dataset" / f"{folder}_{split}.json")
        official += [[one["soft_label"]["0"], one["soft_label"]["1"]] for one in items.values()]
    np.testing.assert_allclose(human, official, atol=0.01)
    train, test = human[: sizes[0]], human[-sizes[2] :]
    assert lewidi_cross_entropy(test, test).mean() == pytest.approx(own, abs=2e-3)
    assert lewidi_cross_entropy(test, np.tile(train.mean(axis=0), (len(test), 1))).mean() == pytest.approx(
        constant, abs=2e-3
    )


def test_names_are_read_as_they_are_written(tmp_path):
    """Spaces made two people of one, and an annotation that is null was a label called None."""
    spaced = item("0,1", "Ann1, Ann2")
    null = item({"Ann1": "1", "Ann2": None}, text={"post": "Well done.", "title": None})
    source = write(tmp_path, "HS-Brexit", {"train": [spaced], "dev": [null]})
    rows = lewidi.prepare(source, "hs_brexit", load_task("hs_brexit")).rows
    assert set(rows[0].extra["raters"]) == {"Ann1", "Ann2"}
    assert rows[1].extra["raters"] == {"Ann1": ["hate speech"]} and rows[1].text == {"post": "Well done.", "title": ""}


def test_a_task_of_ones_own_may_have_the_numbers(tmp_path):
    """Names of an official corpus were put in their place, which that task did not have."""
    fields = {"name": "mine", "modality": "text", "labels": [{"name": "0", "word": "no"}, {"name": "1", "word": "yes"}]}
    task = task_from_dict({**fields, "prompt": "{{ text.text }}", "answer": "A:"}, "mine.yaml")
    source = write(tmp_path, "HS-Brexit", {"train": [item("0,1", "Ann1,Ann2", hard="1")]})
    row = lewidi.prepare(source, "hs_brexit", task).rows[0]
    assert row.votes == {"0": 1, "1": 1} and row.extra["hard_label"] == "1"


def test_half_an_emoji_is_named(tmp_path):
    """It ended with a traceback when the manifest was written."""
    source = write(tmp_path, "HS-Brexit", {"train": [item("0", "Ann1", text="hm \ud83d")]})
    with pytest.raises(UserError, match=r"HS-Brexit_train.json: has half an emoji"):
        lewidi.prepare(source, "hs_brexit", load_task("hs_brexit"))


def test_broken_metadata_is_said(tmp_path, caplog):
    one = item({"Ann1": "6"}, text={"context": "Hm.", "response": "Oh."})
    source = write(tmp_path, "CSC", {"train": [one]})
    (source / "CSC_annotators_meta.json").write_text('{"Ann1": {"age": 3,},}')
    (source / "MP_annotators_meta.json").write_text("{")
    lewidi.prepare(source, "csc", load_task("csc"))
    assert caplog.text.count("not JSON") == 1 and "CSC_annotators_meta.json" in caplog.text


def test_raters_of_a_test_set_without_its_votes_are_asked(tmp_path):
    """Their rows were left out, so the perspectivist task could not be predicted."""
    texts = {"context": "Hm.", "response": "Oh."}
    hidden = {"text": texts, "annotations": {"Ann1": "", "Ann2": ""}, "annotators": "Ann1, Ann2"}
    source = write(tmp_path, "CSC", {"train": [item({"Ann1": "6"}, text=texts)], "test_clear": [hidden]})
    task = load_task("csc")
    rows = by_rater(lewidi.prepare(source, "csc", task).rows, task)
    assert [row.id for row in rows] == ["train-1|Ann1", "test-1|Ann1", "test-1|Ann2"]
    assert not rows[1].votes and "6" in rows[1].text["rater"] and "6" not in rows[2].text["rater"]
    names, means, scores = mean_over_raters(rows[1:], np.eye(6)[[0, 1]], task)
    assert names == ["test-1"] and means.tolist() == [[0.5, 0.5, 0, 0, 0, 0]] and not scores.accuracy
