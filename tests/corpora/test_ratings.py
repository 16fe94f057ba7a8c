from __future__ import annotations

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.corpora.ratings import Columns, gather, prepare, table_ratings, task_of
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.manifest import read_manifest
from shala_audio.task import Label, Task, load_task
from tests.cli.test_cli import invoke

HEADER = "who, file ,feels,speaker,said"
LINES = [
    'r1,a.wav,happy,s1,"Oh, good"',
    'r1,a.wav,Calm,s1,"Oh, good"',
    'r2,a.wav,happy,s1,"Oh, good"',
    'r2,a.wav,happy,s1,"Oh, good"',
    "r1,b,calm,s2,No",
    "r2,b,unsure,s2,No",
    "r1,gone,calm,s2,No",
    "r2,c,unsure,s3,",
]


def read_ratings(path, columns, several="split", **options):
    left_out: Counter[str] = Counter()
    return gather(table_ratings(path, columns, left_out), left_out, several=several, **options), left_out


COLUMNS = ("--item", "file", "--label", "feels", "--rater", "who", "--speaker", "speaker")


@pytest.fixture
def lab(tmp_path):
    """Votes on clips, of which one is missing and one nobody could judge."""
    (tmp_path / "votes.csv").write_text("\n".join([HEADER, *LINES]) + "\n")
    for name in ("a.wav", "deep/b.flac", "c.wav"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "clips" / name, 0.1 * np.ones(16_000), 16_000)
    return tmp_path


def test_votes_of_a_table(lab):
    task = lab / "mood.yaml"
    task.write_text(
        "name: mood\nmodality: audio\nlabels: [{name: joy, word: happy}, calm]\nprompt: '{{ audio }} How?'\nanswer: It is\n"
    )
    out = lab / "data"
    options = ("--out", out, *COLUMNS, "--clips", lab / "clips", "--task", task, "--several", "split")
    with pytest.raises(
        UserError, match=r"b: r2 chose 'unsure', which is no label of task mood \(joy, calm\); --leave-out"
    ):
        invoke("data", "votes", lab / "votes.csv", *options)
    invoke("data", "votes", lab / "votes.csv", *options, "--leave-out", "unsure")
    rows = {row.id: row for row in read_manifest(out / "manifest.jsonl")}
    assert rows["a.wav"].votes == {"joy": 1.5, "calm": 0.5}, "r1 chose both, r2 said the same twice"
    assert rows["a.wav"].extra["raters"] == {"r1": ["calm", "joy"], "r2": ["joy"]}, "by the labels' names"
    assert rows["b"].votes == {"calm": 1} and rows["b"].speaker == "s2"
    assert rows["b"].audio.path == "deep/b.flac" and rows["b"].audio.duration == 1.0
    left_out = {reason: count for reason, count in read_json(out / "summary.json")["left_out"].items() if count}
    assert left_out == {
        "ratings as unsure": 2,
        "ratings that stand there twice": 1,
        "items without a sound file": 1,
        "items without a rating": 1,
    }


def test_a_task_is_made_that_can_be_used(lab):
    options = ("--out", lab / "moods", *COLUMNS, "--text", "said", "--clips", lab / "clips", "--leave-out", "unsure")
    options = (*options, "--several", "split")
    (lab / "votes.csv").write_text((lab / "votes.csv").read_text().replace("Calm", "calm"))
    invoke("data", "votes", lab / "votes.csv", *options)
    task = load_task(str(lab / "moods" / "task.yaml"))
    assert task.name == "moods" and task.label_names == ("calm", "happy") and task.modality == "audio+text"
    (row, _) = sorted(read_manifest(lab / "moods" / "manifest.jsonl"), key=lambda row: row.id)
    assert row.text == {"text": "Oh, good"} and "Oh, good" in task.question(row.text)
    invoke(
        "data",
        "validate",
        lab / "moods" / "manifest.jsonl",
        "--task",
        lab / "moods" / "task.yaml",
        "--audio-root",
        lab / "clips",
    )


def test_texts_go_through_to_a_score(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"t{i},{'up' if rng.random() < 0.6 else 'down'},text {i}" for i in range(60) for _ in range(5)]
    (tmp_path / "v.csv").write_text("\n".join(["name,choice,words", *lines]))
    options = ("--item", "name", "--label", "choice", "--text", "words", "--out", tmp_path / "data")
    invoke("data", "votes", tmp_path / "v.csv", *options)
    rows = read_manifest(tmp_path / "data" / "manifest.jsonl")
    assert len(rows) == 60 and all(sum(row.votes.values()) == 5 for row in rows)
    assert {row.split for row in rows} == {"train", "dev", "test"}
    manifest, out = tmp_path / "data" / "manifest.jsonl", tmp_path / "prior" / "predictions.jsonl"
    task = ("--task", tmp_path / "data" / "task.yaml")
    invoke("evaluate", "baseline", "prior", manifest, "--out", out, *task)
    invoke("evaluate", "score", out, manifest, "--out", tmp_path / "score.json", *task)
    assert json.loads((tmp_path / "score.json").read_text())["n"] == sum(row.split == "test" for row in rows)


def test_items_without_a_text_are_left_out_and_counted(tmp_path):
    lines = [f"t{i},{label},text {i}" for i in range(10) for label in ("up", "down")]
    (tmp_path / "v.csv").write_text("\n".join(["name,choice,words", *lines, "t10,up,"]))
    invoke(
        "data",
        "votes",
        tmp_path / "v.csv",
        "--item",
        "name",
        "--label",
        "choice",
        "--text",
        "words",
        "--out",
        tmp_path / "data",
    )
    assert len(read_manifest(tmp_path / "data" / "manifest.jsonl")) == 10
    assert json.loads((tmp_path / "data" / "summary.json").read_text())["left_out"]["items without a text"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,feels\n", "has no line below the header"),
        ("file,feels\na,x\n", "all ratings say 'x'"),
        ("clip,feels\na,x\n", "has no column 'file', but clip, feels"),
        ("file,feels\na,x\nb\n", ":3: not as many values"),
        ("file,feels\na,x\nb,y,z\n", ":3: not as many values"),
        ("file,feels\na,x\n,y\n", ":3: file is empty"),
        ("file,feels\na,x\nb, \n", ":3: feels is empty"),
        ("file,feels\na,\x81\n", ":2: neither UTF-8 nor cp1252"),
        ('file,feels\na,x\nb,"y\nc,z\nd,x\n', "cannot be read as CSV"),  # a quote that nobody closes
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, message):
    (tmp_path / "v.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        task_of("t", read_ratings(tmp_path / "v.csv", Columns("file", "feels"))[0], "text")


def test_ratings_of_nobody_are_refused(tmp_path):
    """They would have one vote together."""
    (tmp_path / "v.csv").write_text("file,feels,who\na,x,r1\na,y,\n")
    with pytest.raises(UserError, match=r"v.csv:3: who is empty"):
        read_ratings(tmp_path / "v.csv", Columns("file", "feels", "who"))


def test_a_labels_name_counts_for_more_than_anothers_word(tmp_path):
    (tmp_path / "v.csv").write_text("file,feels\na,calm\na,joy\nb,neutral\n")
    items, left_out = read_ratings(tmp_path / "v.csv", Columns("file", "feels"))
    task = Task("t", "text", (Label("calm", "neutral"), Label("joy", "calm")), "{{ text.text }}", "A")
    rows = {row.id: dict(row.votes) for row in prepare(items, left_out, task, None, 0, "").rows}
    assert rows == {"a": {"calm": 1, "joy": 1}, "b": {"calm": 1}}


def test_contradictions_and_unknown_splits_are_named(tmp_path):
    columns = Columns("file", "feels", split="part", speaker="who")
    path = tmp_path / "v.csv"
    path.write_text("file,feels,part,who\na,x,train,s\na,y,test,s\n")
    with pytest.raises(UserError, match=":3: split of a is 'test', and 'train' before"):
        read_ratings(path, columns)
    path.write_text("file,feels,part,who\na,x,train,s\nb,y,eval,s\n")
    items, left_out = read_ratings(path, columns)
    with pytest.raises(UserError, match="b: no split is called 'eval'"):
        prepare(items, left_out, task_of("t", items, "text"), None, 0, "")


def test_two_clips_of_one_name_are_named(lab):
    soundfile.write(lab / "clips" / "b.wav", np.ones(1_000), 16_000)
    options = ("--out", lab / "data", *COLUMNS, "--clips", lab / "clips", "--leave-out", "unsure", "--several", "split")
    with pytest.raises(UserError, match=r"b: both b\.wav and deep/b\.flac have that name"):
        invoke("data", "votes", lab / "votes.csv", *options)


ratings = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from("xyz")), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ratings)
def test_every_rater_of_an_item_has_one_vote(tmp_path_factory, ratings):
    path = tmp_path_factory.mktemp("votes") / "v.csv"
    lines = [f"i{item},r{rater},{label}" for item, rater, label in [*ratings, (9, 9, "x"), (9, 8, "y")]]
    path.write_text("\n".join(["item,rater,label", *lines]))
    items, left_out = read_ratings(path, Columns("item", "label", "rater"))
    rows = prepare(items, left_out, task_of("t", items, "text"), None, 0, "").rows
    raters = defaultdict(set)
    for item, rater, _ in ratings:
        raters[f"i{item}"].add(rater)
    for row in rows:
        assert sum(row.votes.values()) == pytest.approx(len(raters.get(row.id, (8, 9))))
    assert left_out["ratings that stand there twice"] == len(ratings) - len(set(ratings))


def test_labels_that_differ_in_capitals_are_one(tmp_path):
    (tmp_path / "v.csv").write_text("item,label\na,Calm\nb,calm\nc,calm\nd,Joy\n")
    columns = Columns("item", "label")
    items, left_out = read_ratings(tmp_path / "v.csv", columns)
    task = task_of("t", items, "text")
    assert task.label_names == ("Joy", "calm")
    rows = prepare(items, left_out, task, None, 0, "").rows
    assert {row.id: row.votes for row in rows} == {
        "a": {"calm": 1},
        "b": {"calm": 1},
        "c": {"calm": 1},
        "d": {"Joy": 1},
    }


def test_a_line_that_nobody_chose_is_no_vote(tmp_path):
    """An item whose counts are all 0 stopped the corpus with "no votes"."""
    (tmp_path / "counts.csv").write_text("item,text,label,count\na,so,sad,2\na,so,calm,1\nb,no,sad,0\nb,no,calm,0\n")
    options = ("--item", "item", "--label", "label", "--text", "text", "--out", tmp_path / "out")
    invoke("data", "votes", tmp_path / "counts.csv", *options)
    assert [row.votes for row in read_manifest(tmp_path / "out" / "manifest.jsonl")] == [{"sad": 2, "calm": 1}]
    assert read_json(tmp_path / "out" / "summary.json")["left_out"]["lines without a vote"] == 2
