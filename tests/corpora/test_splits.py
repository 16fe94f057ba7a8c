from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.splits import (
    check_speakers,
    crossing_twins,
    fold_split,
    shared_speakers,
    split_by_group,
    twin_groups,
    twins,
)
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row, read_manifest, write_manifest
from tests.cli.test_cli import invoke

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30).map(str), min_size=1, max_size=200), st.integers(0, 5), st.randoms())
def test_a_split_depends_on_the_groups_and_not_on_their_order(groups, seed, random):
    first = split_by_group(groups, SHARES, seed)
    random.shuffle(groups)
    assert split_by_group(groups, SHARES, seed) == first
    assert set(first) == set(groups)


def test_shares_are_kept_and_strata_too():
    groups = [str(index) for index in range(100)]
    sex = {group: "f" if int(group) % 4 == 0 else "m" for group in groups}
    split_of = split_by_group(groups, SHARES, 1, strata=sex)
    test = [group for group in groups if split_of[group] == "test"]
    assert len(test) == 20
    assert sum(sex[group] == "f" for group in test) == 5


def test_a_speaker_on_two_sides_is_named():
    rows = [Row("a", "t", "train", "s1", text={"x": "y"}), Row("b", "t", "test", "s1", text={"x": "y"})]
    with pytest.raises(UserError, match="s1"):
        check_speakers(rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([f"g{i}" for i in range(30)]), min_size=25, max_size=120), st.integers(0, 9))
def test_folds_test_every_group_once(groups, seed):
    tested: list[str] = []
    for fold in range(5):
        split_of = fold_split(groups, fold, seed, 0.1)
        assert set(split_of) == set(groups), "a group is on one side"
        tested += [group for group, split in split_of.items() if split == "test"]
        assert {g for g, s in split_of.items() if s == "test"} == {
            g for g, s in fold_split(groups, fold, seed + 1, 0.1).items() if s == "test"
        }, "the folds are the same for every seed"
    assert sorted(tested) == sorted(set(groups))


def test_a_part_of_the_corpus_has_the_folds_of_the_whole():
    members = [f"s{i}" for i in range(20)]
    whole = fold_split(members, 2, 0, 0.1, members=members)
    part = fold_split(members[:9], 2, 0, 0.1, members=members)
    assert {g for g, s in part.items() if s == "test"} == {g for g in members[:9] if whole[g] == "test"}
    with pytest.raises(UserError, match="use 0 to 4"):
        fold_split(members, 5, 0, 0.1)


def test_msp_podcast_keeps_its_own_partition():
    rows = [Row("a", "msp_podcast_9", "train", "7"), Row("b", "msp_podcast_9", "test", "7")]
    check_speakers(rows)
    with pytest.raises(UserError, match="speaker 7 is in train and in test"):
        check_speakers([replace(row, task="crema_d") for row in rows])
    assert shared_speakers(rows) == ["7"] and shared_speakers(rows[:1]) == []


# Twins -------------------------------------------------------------------------------------------------------------------


def speech(tmp_path, count=40):
    """Clips of which every second one is the one before under another name."""
    rows = []
    for number in range(count):
        samples = np.random.default_rng(number // 2).uniform(-0.5, 0.5, 800 + number // 2)
        soundfile.write(tmp_path / f"c{number}.wav", samples, 16_000)
        rows.append(Row(f"c{number}", "t", "train", audio=Audio(f"c{number}.wav"), votes={"a": 1}))
    return rows


def test_twins_stay_on_one_side(tmp_path):
    """Six of ten clips of test were in train."""
    notes: list[str] = []
    rows = speech(tmp_path)
    groups = twin_groups(rows, tmp_path, notes.append)
    assert [groups[at] == groups[at + 1] for at in range(0, 40, 2)] == [True] * 20 and len(set(groups)) == 20
    assert notes == ["40 items share their sound with others, such as c0 and c1; those stay in one split"]
    split_of = split_by_group(groups, SHARES, seed=0)
    mixed = [replace(row, split=split_of[group]) for row, group in zip(rows, groups, strict=True)]
    assert not crossing_twins(mixed, tmp_path) and len({row.split for row in mixed}) == 3


def test_quiet_clips_of_floating_numbers_are_no_twins(tmp_path):
    """All clips of one length were: read as whole numbers, their samples are 0."""
    for name, seed, subtype in (("a", 0, "FLOAT"), ("b", 1, "FLOAT"), ("c", 0, "PCM_16")):
        samples = np.round(np.random.default_rng(seed).uniform(-0.4, 0.4, 800) * 2**15) / 2**15
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype=subtype)
    for name in ("d", "e", "f"):  # not read by libsndfile
        (tmp_path / f"{name}.m4a").write_bytes(b"one content" if name != "f" else b"two content")
    rows = [Row(name, "t", "train", audio=Audio(f"{name}.{'wav' if name < 'd' else 'm4a'}")) for name in "abcdef"]
    assert twins(rows, tmp_path) == [[0, 2], [3, 4]]


def test_texts_that_differ_in_nothing_one_sees_are_twins():
    texts = ["Oh no.", "oh  no.\u200b", "“Well”", '"Well"', "So"]
    rows = [Row(f"r{n}", "t", "train", text={"text": text}) for n, text in enumerate(texts)]
    assert twin_groups(rows, None, print) == ["r0", "r0", "r2", "r2", "r4"]
    spoken = [replace(row, audio=Audio(f"{row.id}.wav")) for row in rows]
    assert len(set(twin_groups(spoken, None, print))) == 5, "of sound, the words are no matter"


def test_a_twin_joins_two_speakers():
    rows = [
        Row(name, "t", "train", speaker, text={"text": text})
        for name, speaker, text in [("a", "s1", "x"), ("b", "s2", "x"), ("c", "s2", "y"), ("d", "s3", "z")]
    ]
    assert twin_groups(rows, None, print) == ["s1", "s1", "s1", "s3"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_no_split_by_groups_has_twins_on_two_sides(pairs):
    rows = [
        Row(f"r{n}", "t", "train", f"s{speaker}", text={"text": f"t{text}"}) for n, (speaker, text) in enumerate(pairs)
    ]
    groups = twin_groups(rows, None, lambda remark: None)
    split_of = split_by_group(groups, SHARES, seed=1)
    mixed = [replace(row, split=split_of[group]) for row, group in zip(rows, groups, strict=True)]
    assert not crossing_twins(mixed, None)
    check_speakers(mixed)


def test_validate_names_twins_that_cross(tmp_path):
    rows = [replace(row, split="train" if number else "test") for number, row in enumerate(speech(tmp_path, 4))]
    write_manifest(tmp_path / "m.jsonl", rows)
    (tmp_path / "t.yaml").write_text(
        "name: t\nmodality: audio\nlabels: [a, b]\nprompt: '{{ audio }} How?'\nanswer: It is\n"
    )
    command = ["data", "validate", tmp_path / "m.jsonl", "--audio-root", tmp_path, "--task", tmp_path / "t.yaml"]
    result = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert "m.jsonl: c0 (test) and c1 (train) have the same sound" in result.stderr
    assert "4 rows, 0 faults" in result.stdout


def test_votes_keep_twins_together(tmp_path):
    (tmp_path / "clips").mkdir()
    rows = speech(tmp_path / "clips")
    lines = [f"{row.id},{'sad' if number % 3 else 'calm'}" for number, row in enumerate(rows)]
    (tmp_path / "v.csv").write_text("\n".join(["file,feels", *lines]))
    options = ("--item", "file", "--label", "feels", "--clips", tmp_path / "clips", "--out", tmp_path / "data")
    invoke("data", "votes", tmp_path / "v.csv", *options)
    found = {row.id: row.split for row in read_manifest(tmp_path / "data" / "manifest.jsonl")}
    assert all(found[f"c{at}"] == found[f"c{at + 1}"] for at in range(0, 40, 2))


def test_the_same_samples_in_another_format_are_twins(tmp_path):
    rows = speech(tmp_path, 2)[:1]
    samples, rate = soundfile.read(tmp_path / "c0.wav", dtype="int16")
    soundfile.write(tmp_path / "c0.flac", samples, rate)
    tagged = (tmp_path / "c0.wav").read_bytes() + b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    (tmp_path / "tagged.wav").write_bytes(tagged)
    rows += [replace(rows[0], id=name, audio=Audio(name)) for name in ("c0.flac", "tagged.wav")]
    assert len(set(twin_groups(rows, tmp_path, print))) == 1


def test_long_chains_of_twins_are_joined_at_once():
    rows = [Row(f"r{n}", "t", "train", f"s{n // 2}", text={"text": f"t{(n + 1) // 2}"}) for n in range(30_000)]
    assert len(set(twin_groups(rows, None, lambda remark: None))) == 1
