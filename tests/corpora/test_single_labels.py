from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.single_labels import by_label, label_distances, rates, yes_or_no
from shala_audio.errors import UserError
from shala_audio.manifest import Row, read_manifest, write_manifest
from shala_audio.task import load_task, task_from_dict

TASK = load_task("varierrnli")
TEXT = {"context": "A man sings.", "statement": "A man makes a sound."}


def row(identity: str, split: str = "train", **chosen_by) -> Row:
    votes = {label: 1.0 for chosen in chosen_by.values() for label in chosen}
    return Row(identity, "varierrnli", split, None, None, TEXT, votes, {"raters": chosen_by} if chosen_by else {})


def test_each_label_has_a_question_and_its_own_votes():
    found = by_label([row("a", Ann=["entailment", "neutral"], Ben=["neutral"]), row("b", "test")], TASK)
    assert [one.id for one in found[:3]] == ["a|entailment", "a|neutral", "a|contradiction"]
    assert [one.votes for one in found[:3]] == [{"yes": 1, "no": 1}, {"yes": 2}, {"no": 2}]
    assert len(found) == 6 and not found[3].votes
    asked = yes_or_no(TASK)
    assert task_from_dict(asked.to_dict(), "task.yaml") == asked and asked.asked == TASK.labels
    assert asked.given_fields() == TASK.text_fields()
    assert asked.label_names == ("yes", "no") and asked.name == found[0].task == "varierrnli_labels"
    assert [one.votes for one in by_label([row("a", Ann=[], Ben=["neutral"])], TASK)][1] == {"yes": 1, "no": 1}
    assert asked.question(found[1].text).endswith("A man makes a sound.\nIs maybe a right answer?")
    with pytest.raises(UserError, match="no row says who"):
        by_label([row("b", "test")], TASK)
    with pytest.raises(UserError, match="'joy' is no label"):
        by_label([row("a", Ann=["joy"])], TASK)
    with pytest.raises(UserError, match="row a: has a text field label"):
        by_label([replace(row("a", Ann=["neutral"]), text={"label": "x"})], TASK)
    with pytest.raises(UserError, match="of audio"):
        yes_or_no(load_task("crema_d"))


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 99))
def test_the_distance_is_the_organisers(predicted, seed):
    """`multilabel_average_MD` of LeWiDi 2025: for every item the mean over labels of the sum of absolute differences."""
    rng = np.random.default_rng(seed)
    names = TASK.label_names
    items = []
    for number in range(len(predicted)):
        chosen = {f"R{rater}": [str(one) for one in rng.choice(names, rng.integers(1, 4), False)] for rater in range(4)}
        items.append(row(str(number), **chosen))
    rows = by_label(items, TASK)
    yes = dict(zip((one.id for one in rows), np.array(predicted).reshape(-1).tolist(), strict=True))
    distances = label_distances(rows, yes)
    expected = []
    for item, stated in zip(items, predicted, strict=True):
        of_labels = []
        for name, p in zip(names, stated, strict=True):
            t = np.mean([name in labels for labels in item.extra["raters"].values()])
            of_labels.append(sum(abs(a - b) for a, b in zip((1 - p, p), (1 - t, t), strict=True)))
        expected.append(np.mean(of_labels))
    assert np.mean(list(distances.values())) == pytest.approx(np.mean(expected))
    assert rates(rows, yes)["0"] == dict(zip(names, predicted[0], strict=True))
    one, two, three = by_label([row("x", R=["neutral"])], TASK)
    with pytest.raises(UserError, match="row x: has no prediction for neutral"):
        rates([*rows, one, three], {**yes, one.id: 0, two.id: 0, three.id: 0})


def test_commands_go_there_and_back(tmp_path):
    manifest, folder = tmp_path / "m.jsonl", tmp_path / "labels"
    write_manifest(
        manifest, [row("a", Ann=["entailment", "neutral"], Ben=["neutral"]), row("b", "test", Cy=["neutral"])]
    )
    run = CliRunner().invoke(app, ["data", "labels", str(manifest), "--out", str(folder)], catch_exceptions=False)
    assert run.exit_code == 0 and "6 questions about 2 rows" in run.stdout.replace("\n", "")
    with pytest.raises(UserError, match="is the folder of .*name another"):
        CliRunner().invoke(app, ["data", "labels", str(manifest), "--out", str(tmp_path)], catch_exceptions=False)
    rows = read_manifest(folder / "manifest.jsonl", "test")
    answers = [{"id": one.id, "probs": {"yes": p, "no": 1 - p}} for one, p in zip(rows, (0.25, 1, 0.5), strict=True)]
    stated = tmp_path / "p.jsonl"
    stated.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    words = ["evaluate", "labels", stated, folder / "manifest.jsonl", "--out", tmp_path / "rates.jsonl"]
    run = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert run.exit_code == 0, run.output
    cells = [line.split() for line in run.stdout.replace("│", " ").splitlines()]
    assert ["mean", "0.5000", "0.3333"] in cells, "of the labels .5, 0 and 1; of the mean rates of train 1, 0 and 0"
    assert json.loads((tmp_path / "rates.jsonl").read_text()) == {
        "id": "b", "rates": {"entailment": 0.25, "neutral": 1.0, "contradiction": 0.5},
    }  # fmt: skip
