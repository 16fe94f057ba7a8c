from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row, read_manifest, row_from_json, write_manifest

names = st.text(min_size=1, max_size=8)
ids = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1, max_size=8
)
ROWS = st.builds(
    Row,
    id=ids,
    task=names,
    split=st.sampled_from(["train", "dev", "test"]),
    speaker=st.none() | names,
    audio=st.just(Audio("a/b c.wav", 0.5, 2.0)) | st.just(Audio("ü.wav")),
    text=st.dictionaries(names, st.text(max_size=8), max_size=2),
    votes=st.dictionaries(names, st.integers(0, 9) | st.floats(0, 9), max_size=3),
    extra=st.just({"a": [1, None]}),
)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_a_row_survives_its_json(row):
    assert row_from_json(row.to_json(), "here") == row


GOOD = {"id": "a", "task": "t", "split": "train", "audio": {"path": "a.wav"}, "votes": {"x": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "`id`"),
        ({"split": "training"}, "split"),
        ({"audio": None}, "neither"),
        ({"audio": {"path": "/etc/passwd"}}, "relative"),
        ({"audio": {}, "text": {"x": "y"}}, "audio"),
        ({"audio": {"path": "a/../../b.wav"}}, "relative"),
        ({"audio": {"path": "a.wav", "offset": -1}}, "offset"),
        ({"audio": {"path": "a.wav", "offset": None}}, "offset"),
        ({"audio": {"path": "a.wav", "duration": True}}, "duration"),
        ({"votes": {"x": -1}}, "votes"),
        ({"votes": {"x": float("nan")}}, "votes"),
        ({"label": "x"}, "unknown fields label"),
    ],
)
def test_wrong_rows_are_refused_with_their_place(change, message):
    with pytest.raises(UserError, match=f"m:3.*{message}"):
        row_from_json(json.dumps(GOOD | change), "m:3")


def test_manifest_round_trip_and_repeated_ids(tmp_path):
    rows = [Row("a", "t", "train", text={"x": "é"}), Row("b", "t", "test", text={"x": "y"})]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert read_manifest(tmp_path / "m.jsonl") == rows
    assert [row.id for row in read_manifest(tmp_path / "m.jsonl", "test")] == ["b"]
    write_manifest(tmp_path / "m.jsonl", [rows[0], rows[0]])
    with pytest.raises(UserError, match="m.jsonl:2.*twice"):
        read_manifest(tmp_path / "m.jsonl")
