"""Exports of annotation tools, as the tools write them."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from shala_audio.corpora.exports import _file_name, label_studio_ratings, potato_ratings
from shala_audio.corpora.ratings import Columns, gather
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, read_manifest
from tests.cli.test_cli import invoke


def task(number, data, *annotations):
    """A task of Label Studio; an annotation is (rater, choices, cancelled)."""
    made = [
        {
            "id": 100 + order,
            "completed_by": rater,
            "was_cancelled": cancelled,
            "result": [
                {
                    "id": "x",
                    "type": "choices",
                    "from_name": "emotion",
                    "to_name": "audio",
                    "value": {"choices": choices},
                },
                {"id": "y", "type": "textarea", "from_name": "why", "to_name": "audio", "value": {"text": ["so"]}},
            ],
        }
        for order, (rater, choices, cancelled) in enumerate(annotations)
    ]
    return {"id": number, "data": data, "annotations": made, "predictions": [], "project": 3}


LABEL_STUDIO = [
    task(
        1,
        {"audio": "/data/upload/3/0a1b2c3d-one.wav", "speaker": "s1"},
        (7, ["Happy"], False),
        ({"id": 8, "email": "b@lab.org"}, ["Happy", "Calm"], False),
        (9, [], True),
    ),
    task(2, {"audio": "/data/local-files/?d=deep/two.wav", "speaker": "s2"}, (7, ["Calm"], False), (8, [], False)),
]


def collect(path, format, columns, items=None, several="split", notes=None):
    left_out: Counter[str] = Counter()
    note = (notes if notes is not None else []).append
    if format == "potato":
        ratings = potato_ratings(path, columns, items, left_out, note)
    else:
        ratings = label_studio_ratings(path, columns, left_out, note)
    found = gather(ratings, left_out, several=several, table=False, note=note)
    chosen = {name: {rater: sorted(labels) for rater, labels in item.choices.items()} for name, item in found.items()}
    return {name: raters for name, raters in chosen.items() if raters}, left_out


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_label_studio(tmp_path):
    export = write(tmp_path / "project.json", LABEL_STUDIO)
    found, left_out = collect(export, "label-studio", Columns("", "", speaker="speaker"))
    assert found == {"one.wav": {"7": ["Happy"], "b@lab.org": ["Calm", "Happy"]}, "deep/two.wav": {"7": ["Calm"]}}
    assert left_out == {"annotations that were skipped": 1, "annotations without a choice": 1}


def test_label_studio_json_min(tmp_path):
    small = [
        {"id": 1, "audio": "s3://bucket/one.wav", "emotion": "Happy", "annotator": 7, "annotation_id": 1},
        {"id": 1, "audio": "s3://bucket/one.wav", "emotion": {"choices": ["Happy", "Calm"]}, "annotator": 8},
        {"id": 2, "audio": "s3://bucket/two.wav", "annotator": 8},
    ]
    found, left_out = collect(write(tmp_path / "min.json", small), "label-studio", Columns("", "emotion"))
    assert found == {"one.wav": {"7": ["Happy"], "8": ["Calm", "Happy"]}}
    assert left_out == {"annotations without a choice": 1}
    with pytest.raises(UserError, match="name the key of the choice with --label; there are id, audio, emotion"):
        collect(tmp_path / "min.json", "label-studio", Columns("", ""))


def region(start, end, label, channel=None, kind="choices", number=0):
    value = {"start": start, "end": end, kind: [label], **({} if channel is None else {"channel": channel})}
    return {"id": f"r{number}", "type": kind, "from_name": "emotion", "to_name": "audio", "value": value}


@pytest.mark.parametrize("kind", ["choices", "labels"])
def test_regions_of_a_clip_are_items_of_their_own(tmp_path, kind):
    """They were one vote of the whole clip."""
    results = [region(0.5, 1.25, "Happy", kind=kind), region(1.5, 2.0, "Calm", 1, kind)]
    tasks = [
        {
            "id": 1,
            "data": {"audio": "/data/local-files/?d=a.wav"},
            "annotations": [{"completed_by": 7, "result": results}],
        }
    ]
    export, notes, left_out = write(tmp_path / "p.json", tasks), [], Counter()
    found = gather(label_studio_ratings(export, Columns("", ""), left_out, notes.append), left_out, table=False)
    assert {name: (item.region.offset, item.region.duration, item.region.channel) for name, item in found.items()} == {
        "a.wav 0.5-1.25": (0.5, 0.75, None),
        "a.wav 1.5-2 channel 1": (1.5, 0.5, 1),
    }
    assert [dict(item.choices) for item in found.values()] == [{"7": {"Happy"}}, {"7": {"Calm"}}]
    assert "2 answers are on parts of clips" in notes[0]
    small = [{"id": 1, "audio": "a.wav", "emotion": [{"start": 0.5, "end": 1.25, kind: ["Happy"]}], "annotator": 7}]
    assert list(collect(write(tmp_path / "m.json", small), "label-studio", Columns("", "emotion"))[0]) == [
        "a.wav 0.5-1.25"
    ]


def test_regions_become_rows_with_offset_duration_and_channel(tmp_path):
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", np.random.default_rng(0).uniform(-1, 1, (48_000, 2)), 16_000)
    results = [region(0.5, 1.25, "Happy"), region(1.5, 2.0, "Calm", 1)]
    tasks = [{"id": 1, "data": {"audio": "a.wav"}, "annotations": [{"completed_by": 7, "result": results}]}]
    export = write(tmp_path / "p.json", tasks)
    out = tmp_path / "data"
    invoke("data", "votes", export, "--from", "label-studio", "--clips", tmp_path / "clips", "--out", out)
    rows = read_manifest(out / "manifest.jsonl")
    assert {row.audio for row in rows} == {Audio("a.wav", 0.5, 0.75), Audio("a.wav", 1.5, 0.5, 1)}
    assert len({row.split for row in rows}) == 1, "parts of one recording stay together"
    invoke("data", "validate", out / "manifest.jsonl", "--audio-root", tmp_path / "clips", "--task", out / "task.yaml")


def test_regions_that_all_say_channel_0_are_of_no_channel(tmp_path):
    """Label Studio writes it of every region; so the left channel alone was heard, whatever --channel said."""
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", np.random.default_rng(0).uniform(-1, 1, (48_000, 2)), 16_000)
    results = [region(0.5, 1.25, "Happy", 0), region(1.5, 2.0, "Calm", 0)]
    tasks = [{"id": 1, "data": {"audio": "a.wav"}, "annotations": [{"completed_by": 7, "result": results}]}]
    export = write(tmp_path / "p.json", tasks)
    for options, channel in (((), None), (("--channel", 1), 1)):
        out = tmp_path / f"of {channel}"
        invoke("data", "votes", export, "--from", "label-studio", "--clips", tmp_path / "clips", "--out", out, *options)
        rows = read_manifest(out / "manifest.jsonl")
        assert {row.audio.channel for row in rows} == {channel}
        assert {row.id for row in rows} == {"a.wav 0.5-1.25", "a.wav 1.5-2"}


def test_addresses_that_no_browser_would_take(tmp_path):
    """They ended in a traceback, or lost the end of a name."""
    assert _file_name("http://[bad/a.wav") == "a.wav"
    assert _file_name("/data/upload/3/0a1b2c3d-clip%2001.wav") == "clip 01.wav"
    assert _file_name("/data/local-files/?d=speech/clip.wav") == "speech/clip.wav"


def test_a_part_of_a_text_is_refused_and_its_task_named(tmp_path):
    result = {"type": "labels", "from_name": "emotion", "value": {"start": 3, "end": 9, "labels": ["Happy"]}}
    tasks = [{"id": 4, "data": {"comment": "Oh, good."}, "annotations": [{"completed_by": 7, "result": [result]}]}]
    with pytest.raises(UserError, match=r"p\.json: task 4: a part of a text was judged"):
        collect(write(tmp_path / "p.json", tasks), "label-studio", Columns("", "", text="comment"))


def test_stars_and_earlier_versions_of_label_studio(tmp_path):
    stars = {"type": "rating", "from_name": "arousal", "value": {"rating": 4}}
    tasks = [
        {
            "id": 1,
            "data": {"audio": "a.wav"},
            "completions": [{"id": 9, "result": [stars]}, {"id": 10, "result": [stars]}],
        }
    ]
    assert collect(write(tmp_path / "p.json", tasks), "label-studio", Columns("", ""))[0] == {
        "a.wav": {"1": ["4"], "2": ["4"]}
    }


def test_people_who_share_an_account_are_told_and_count_each(tmp_path):
    """They had one vote together."""
    answers = [(7, ["Happy"], False), (7, ["Happy"], False), (8, ["Sad"], False)]
    export, notes = write(tmp_path / "e.json", [task(1, {"audio": "a.wav"}, *answers)]), []
    found, _ = collect(export, "label-studio", Columns("", ""), notes=notes)
    assert found == {"a.wav": {"7": ["Happy"], "7 #2": ["Happy"], "8": ["Sad"]}}
    assert "1 times one account judged a task again" in notes[0]


def test_a_named_rater_is_used_or_missed(tmp_path):
    """--rater was ignored in silence."""
    tasks = [task(1, {"audio": "a.wav", "who": "ann"}, (7, ["Happy"], False))]
    export = write(tmp_path / "e.json", tasks)
    assert collect(export, "label-studio", Columns("", "", rater="who"))[0] == {"a.wav": {"ann": ["Happy"]}}
    with pytest.raises(UserError, match=r"task 1: has no 'nobody' \(--rater\)"):
        collect(export, "label-studio", Columns("", "", rater="nobody"))


def test_label_studio_texts_are_called_by_their_number(tmp_path):
    export = write(tmp_path / "p.json", [task(5, {"comment": "Oh no.", "n": 3}, (1, ["Calm"], False))])
    assert collect(export, "label-studio", Columns("", "", text="comment"))[0] == {"5": {"1": ["Calm"]}}
    with pytest.raises(UserError, match="name the key of the clip with --item, or of the text with --text: comment, n"):
        collect(export, "label-studio", Columns("", ""))
    with pytest.raises(UserError, match="task 5: has no 'speaker', but comment, n"):
        collect(export, "label-studio", Columns("", "", text="comment", speaker="speaker"))


def test_a_label_studio_task_that_nobody_judged(tmp_path):
    judged = task(5, {"comment": "Oh no."}, (1, ["Calm"], False))
    export = write(
        tmp_path / "p.json", [judged, {"id": 6, "data": {"comment": "Well."}}, {**judged, "id": 7, "annotations": None}]
    )
    assert collect(export, "label-studio", Columns("", "", text="comment"))[0].keys() == {"5"}


@pytest.mark.parametrize("content", [{}, [], [1], "tasks", [{"data": "a.wav", "annotations": []}]])
def test_not_label_studio(tmp_path, content):
    with pytest.raises(UserError, match="not an export of Label Studio|holds no task"):
        collect(write(tmp_path / "p.json", content), "label-studio", Columns("", ""))


def test_two_controls_must_be_told_apart(tmp_path):
    two = json.loads(json.dumps(LABEL_STUDIO))
    two[0]["annotations"][0]["result"].append(
        {"type": "choices", "from_name": "noise", "to_name": "audio", "value": {"choices": ["none"]}}
    )
    export = write(tmp_path / "p.json", two)
    with pytest.raises(UserError, match="name the control with --label: emotion, noise"):
        collect(export, "label-studio", Columns("", ""))
    assert collect(export, "label-studio", Columns("", "noise"))[0] == {"one.wav": {"7": ["none"]}}


def test_people_whom_label_studio_no_longer_names_are_still_several(tmp_path):
    """All of them were the rater None, with one vote together."""
    answers = [(None, ["Happy"], False), (None, ["Happy"], False), (None, ["Sad"], False)]
    export = write(tmp_path / "e.json", [task(1, {"audio": "/data/local-files/?d=a.wav"}, *answers)])
    assert collect(export, "label-studio", Columns("", ""))[0] == {
        "a.wav": {"1": ["Happy"], "2": ["Happy"], "3": ["Sad"]}
    }


def test_two_clips_that_would_have_one_name_are_refused(tmp_path):
    addresses = ("https://lab/spkA/001.wav", "https://lab/spkB/001.wav")
    tasks = [task(n, {"audio": address}, (7, ["Happy"], False)) for n, address in enumerate(addresses)]
    export = write(tmp_path / "e.json", tasks)
    with pytest.raises(UserError, match="spkB/001.wav and https://lab/spkA/001.wav would both be 001.wav"):
        collect(export, "label-studio", Columns("audio", ""))


@pytest.fixture
def potato(tmp_path):
    """Potato's folder, as versions 2 and (carol) early 2 write it."""
    answers = {
        "alice": {"i1": [[{"schema": "emotion", "name": "happy"}, "true"], [{"schema": "sure", "name": "3"}, "3"]]},
        "bob": {
            "i1": [[{"schema": "emotion", "name": "happy"}, True], [{"schema": "emotion", "name": "calm"}, True]],
            "i2": [[{"schema": "emotion", "name": "calm"}, False]],
        },
        "carol": {"i2": {"emotion": {"labels": {"calm": True}}}, "i1": {"emotion": {"calm": "true"}}},
    }
    for user, state in answers.items():
        (tmp_path / "annotation_output" / user).mkdir(parents=True)
        write(
            tmp_path / "annotation_output" / user / "user_state.json",
            {"user_id": user, "instance_id_to_label_to_value": state, "instance_id_ordering": ["i1", "i2"]},
        )
    items = [
        {"id": "i1", "text": "Oh no.", "audio": "https://lab/clips/one.wav"},
        {"id": "i2", "text": "Well.", "audio": "two.wav"},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    write(tmp_path / "items.json", items)
    (tmp_path / "items.csv").write_text("id,text,audio\ni1,Oh no.,one.wav\ni2,Well.,two.wav\n")
    return tmp_path


def test_potato(potato):
    folder = potato / "annotation_output"
    found, left_out = collect(folder, "potato", Columns("", "emotion"))
    assert found == {
        "i1": {"alice": ["happy"], "bob": ["calm", "happy"], "carol": ["calm"]},
        "i2": {"carol": ["calm"]},
    }
    assert left_out == {"annotations without a choice": 1}
    for items in ("items.jsonl", "items.json", "items.csv"):
        by_file, _ = collect(folder, "potato", Columns("audio", "emotion", text="text"), potato / items)
        assert by_file == {"one.wav": found["i1"], "two.wav": found["i2"]}


def test_several_clicks_on_one_radio_button_of_potato(potato):
    """An old bug of Potato's keeps every click; they shared a vote in silence."""
    folder = potato / "annotation_output"
    with pytest.raises(
        UserError, match=r"1 times a rater names several labels for one item, first at .*bob.*\(calm, happy\)"
    ):
        collect(folder, "potato", Columns("", "emotion"), several="refuse")
    found, left_out = collect(folder, "potato", Columns("", "emotion"), several="leave-out")
    assert found["i1"] == {"alice": ["happy"], "carol": ["calm"]} and left_out["votes for several labels at once"] == 1
    with pytest.raises(UserError, match="--rater: Potato's answers say whose they are"):
        collect(folder, "potato", Columns("", "emotion", rater="user"))


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
def test_potatos_texts_are_as_they_are_written(potato, name):
    """With line breaks in them, a Unicode line separator, and a byte order mark before all."""
    said = "Oh no.\nNot again.\u2028So."
    lines = [json.dumps({"id": f"i{n}", "text": said, "audio": f"{n}.wav"}, ensure_ascii=False) for n in (1, 2)]
    table = f'id,text,audio\ni1,"{said}",1.wav\ni2,"{said}",2.wav\n'
    (potato / name).write_text("\ufeff" + (table if name.endswith("csv") else "\n".join(lines)), encoding="utf-8")
    columns = Columns("audio", "emotion", text="text")
    found = list(potato_ratings(potato / "annotation_output", columns, potato / name, Counter(), print))
    assert found and {rating.fields["text"] for rating in found} == {said}


def test_potato_refuses_two_clips_of_one_name(potato):
    write(potato / "items.json", [{"id": "i1", "audio": "A/1.wav"}, {"id": "i2", "audio": "B/1.wav"}])
    with pytest.raises(UserError, match="would both be 1.wav"):
        collect(potato / "annotation_output", "potato", Columns("audio", "emotion"), potato / "items.json")


def test_potato_refuses_two_items_of_one_id(potato):
    write(potato / "items.json", [{"id": "i1", "text": "a"}, {"id": "i1", "text": "b"}])
    with pytest.raises(UserError, match="items.json: id 'i1' stands there twice"):
        collect(potato / "annotation_output", "potato", Columns("", "emotion", text="text"), potato / "items.json")


def test_potato_says_what_is_missing(potato):
    folder = potato / "annotation_output"
    with pytest.raises(UserError, match="name the scheme with --label: emotion, sure"):
        collect(folder, "potato", Columns("", ""))
    with pytest.raises(UserError, match="no scheme 'mood' was answered, but emotion, sure"):
        collect(folder, "potato", Columns("", "mood"))
    with pytest.raises(UserError, match="--items: name the data file"):
        collect(folder, "potato", Columns("", "emotion", text="text"))
    (potato / "items.jsonl").write_text('{"id": "i1", "text": "a"}\n')
    with pytest.raises(UserError, match=r"i2: not in .*items\.jsonl"):
        collect(folder, "potato", Columns("", "emotion", text="text"), potato / "items.jsonl")
    with pytest.raises(UserError, match=r"holds no \*/user_state\.json"):
        collect(potato, "potato", Columns("", ""))
    with pytest.raises(UserError, match="--from is 'prodigy'"):
        invoke("data", "votes", potato, "--from", "prodigy", "--text", "text", "--out", potato / "data")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            {"id": 1, "data": {"audio": "a.wav"}, "annotations": [12, 13]},
            r"task 1: its annotations are \[12, 13\]; export",
        ),
        ({"id": 1, "data": {"audio": "a.wav"}, "annotations": {"a": 1}}, "task 1: its annotations are"),
        (
            task(1, {"audio": "a.wav"})
            | {"annotations": [{"result": [{"type": "choices", "from_name": "e", "value": "x"}]}]},
            "is 'x'",
        ),
        (task(1, {"audio": "a.wav"}) | {"annotations": [{"result": {"a": 1}}]}, "`result` must be a list"),
    ],
)
def test_odd_exports_are_named(tmp_path, broken, message):
    """They ended in a traceback."""
    with pytest.raises(UserError, match=message):
        collect(write(tmp_path / "p.json", [broken]), "label-studio", Columns("", ""))


def test_a_control_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nothing was answered with 'mood' \(--label\), but with emotion, why"):
        collect(write(tmp_path / "p.json", LABEL_STUDIO), "label-studio", Columns("", "mood"))


def test_potatos_sliders_lists_and_fields_say_their_value(tmp_path):
    for user, value in (("a", "5"), ("b", "2"), ("c", "0")):
        (tmp_path / user).mkdir()
        answers = {"i1": [[{"schema": "arousal", "name": "scale"}, value]]}
        write(tmp_path / user / "user_state.json", {"user_id": user, "instance_id_to_label_to_value": answers})
    assert collect(tmp_path, "potato", Columns("", ""))[0] == {"i1": {"a": ["5"], "b": ["2"]}}
    for wrong in (
        [],
        {"instance_id_to_label_to_value": {"i1": [["e", "sad"]]}},
        {"instance_id_to_label_to_value": {"i1": {"e": [1]}}},
    ):
        write(tmp_path / "a" / "user_state.json", wrong)
        with pytest.raises(UserError, match=r"a/user_state\.json: (not a state|holds answers)"):
            collect(tmp_path, "potato", Columns("", ""))
