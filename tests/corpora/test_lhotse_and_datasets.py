"""Round trips through Lhotse and `datasets`, read by those libraries themselves."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.hf_datasets import _cut
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row, read_manifest, write_manifest
from shala_audio.task import load_task
from tests.cli.test_cli import invoke


def convert_texts(folder: Path, out: Path) -> str:
    """A stored dataset of comments to a manifest."""
    return invoke("data", "convert", folder, "--from", "datasets", "--task", "goemotions", "--out", out)


@pytest.fixture
def corpus(tmp_path):
    """Three stretches of two files, stereo and mono, and their manifest."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "clips" / "one.wav", 0.1 * rng.standard_normal((44_100, 2)), 44_100)
    soundfile.write(tmp_path / "clips" / "deep" / "two.flac", 0.1 * rng.standard_normal(8000), 8000)
    rows = [
        Row(
            "a", "crema_d", "train", "s1", Audio("one.wav", 0.25, 0.5), {"transcript": "Oh."}, {"anger": 2, "sad": 1.5}
        ),
        Row("b", "crema_d", "train", "s1", Audio("one.wav", 0.5, 0.5), {"transcript": "No."}, {"fear": 3}),
        Row("c", "crema_d", "test", "s2", Audio("deep/two.flac", 0.0, 1.0), {}, {}, {"take": 1}),
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    return tmp_path, rows


def test_lhotse_reads_what_is_written_and_it_comes_back(corpus):
    from lhotse import CutSet, RecordingSet, SupervisionSet

    folder, rows = corpus
    options = ("--to", "lhotse", "--audio-root", folder / "clips", "--out", folder / "lhotse")
    invoke("data", "convert", folder / "m.jsonl", *options)
    recordings = RecordingSet.from_file(folder / "lhotse" / "recordings.jsonl.gz").with_path_prefix(folder / "clips")
    supervisions = SupervisionSet.from_file(folder / "lhotse" / "supervisions.jsonl.gz")
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions).trim_to_supervisions()
    cut = next(cut for cut in cuts if cut.supervisions[0].id == "a")
    whole, rate = soundfile.read(folder / "clips" / "one.wav", dtype="float32")
    expected = whole[round(0.25 * rate) : round(0.75 * rate)].T
    np.testing.assert_allclose(cut.load_audio(), expected, atol=1e-6)
    assert cut.supervisions[0].custom["votes"] == {"anger": 2, "sad": 1.5}
    assert (cut.supervisions[0].speaker, cut.supervisions[0].text) == ("s1", "Oh.")
    invoke("data", "convert", folder / "lhotse", "--from", "lhotse", "--out", folder / "back.jsonl")
    assert read_manifest(folder / "back.jsonl") == rows


def test_lhotse_of_others_becomes_rows_to_predict(corpus, tmp_path):
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    folder, _ = corpus
    recording = Recording.from_file((folder / "clips" / "one.wav").absolute())
    (tmp_path / "theirs").mkdir()
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "theirs" / "x_recordings_dev.jsonl.gz")

    def write(channel):
        segment = SupervisionSegment("u", recording.id, 0.1, 0.4, channel=channel, text="Hello", speaker="p")
        SupervisionSet.from_segments([segment]).to_file(tmp_path / "theirs" / "x_supervisions_dev.jsonl.gz")

    write([0, 1])
    with pytest.raises(UserError, match="names no task; give one with --task"):
        invoke("data", "convert", tmp_path / "theirs", "--from", "lhotse", "--out", tmp_path / "n.jsonl")
    command = ("convert", tmp_path / "theirs", "--from", "lhotse", "--task", "crema_d", "--out", tmp_path / "n.jsonl")
    with pytest.raises(UserError, match="must be relative and stay under the audio root"):
        invoke(*command)
    invoke(*command, "--audio-root", folder / "clips")
    (row,) = read_manifest(tmp_path / "n.jsonl")
    assert row == Row("u", "crema_d", "predict", "p", Audio("one.wav", 0.1, 0.4), {"transcript": "Hello"})
    write(1)  # one side of a call
    invoke(*command, "--audio-root", folder / "clips")
    (row,) = read_manifest(tmp_path / "n.jsonl")
    assert row.audio == Audio("one.wav", 0.1, 0.4, channel=1)
    invoke(
        "data",
        "convert",
        tmp_path / "n.jsonl",
        "--to",
        "lhotse",
        "--audio-root",
        folder / "clips",
        "--out",
        tmp_path / "m",
    )
    (segment,) = SupervisionSet.from_file(tmp_path / "m" / "supervisions.jsonl.gz")
    assert segment.channel == 1


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_a_dataset_holds_sound_as_loud_as_the_file(tmp_path, subtype):
    """Float files used to become silence."""
    samples = 0.5 * np.sin(np.arange(16_000) / 20)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype=subtype)
    shortened: set[str] = set()
    held, _ = soundfile.read(io.BytesIO(_cut(Audio("a.wav", 0.25, 0.5), tmp_path, "a", shortened)["bytes"]))
    np.testing.assert_allclose(held, samples[4000:12_000], atol=1e-4)
    assert bool(shortened) == (subtype in ("FLOAT", "DOUBLE")), "FLAC has 24 bits at most"
    with pytest.raises(UserError, match="row a: .*a.wav: ends 1.00 s before the row does"):
        _cut(Audio("a.wav", 0.0, 2.0), tmp_path, "a", shortened)
    if subtype == "FLOAT":
        soundfile.write(tmp_path / "b.wav", 3 * samples, 16_000, subtype=subtype)
        with pytest.raises(UserError, match="beyond full scale, which FLAC cannot hold"):
            _cut(Audio("b.wav"), tmp_path, "b", shortened)


def test_sound_that_is_cut_short_is_not_put_into_a_dataset(tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, 0.5 * np.sin(np.arange(160_000) / 20), 16_000)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"row r: .*{name}: "):
            _cut(Audio(name), tmp_path, "r", set())
    soundfile.write(tmp_path / "many.wav", np.ones((800, 9)) / 2, 16_000)
    with pytest.raises(UserError, match="row r: .*many.wav: "):
        _cut(Audio("many.wav"), tmp_path, "r", set())


def test_two_datasets_share_a_folder_of_clips(corpus, tmp_path):
    """The second used to overwrite the first one's."""
    folder, _ = corpus
    options = ("--to", "datasets", "--audio-root", folder / "clips", "--out")
    invoke("data", "convert", folder / "m.jsonl", *options, folder / "first")
    for clip in (folder / "clips").glob("*.wav"):
        samples, rate = soundfile.read(clip)
        soundfile.write(clip, samples / 2, rate)
    invoke("data", "convert", folder / "m.jsonl", *options, folder / "second")
    for name in ("first", "second"):
        invoke(
            "data",
            "convert",
            folder / name,
            "--from",
            "datasets",
            "--audio-root",
            tmp_path,
            "--out",
            folder / f"{name}.jsonl",
        )
    paths = [{row.audio.path for row in read_manifest(folder / f"{name}.jsonl")} for name in ("first", "second")]
    assert len(paths[0] & paths[1]) == 1 and all((tmp_path / path).is_file() for path in paths[0] | paths[1])


def test_datasets_reads_what_is_written_and_it_comes_back(corpus):
    import datasets

    folder, rows = corpus
    options = ("--to", "datasets", "--audio-root", folder / "clips", "--out", folder / "dataset")
    invoke("data", "convert", folder / "m.jsonl", *options)
    found = datasets.load_from_disk(str(folder / "dataset"))
    assert {split: len(part) for split, part in found.items()} == {"train": 2, "test": 1}
    first = found["train"].cast_column("audio", datasets.Audio(decode=False))[0]
    assert set(first["votes"]) == set(load_task("crema_d").label_names)
    assert (first["votes"]["anger"], first["votes"]["fear"], first["transcript"]) == (2, 0, "Oh.")
    assert not first["audio"]["path"].startswith("/")
    invoke(
        "data",
        "convert",
        folder / "dataset",
        "--from",
        "datasets",
        "--audio-root",
        folder / "out",
        "--out",
        folder / "b.jsonl",
    )
    back = read_manifest(folder / "b.jsonl")
    assert [replace(row, audio=None) for row in back] == [replace(row, audio=None) for row in rows]
    heard, rate = soundfile.read(folder / "out" / back[0].audio.path)
    whole, _ = soundfile.read(folder / "clips" / "one.wav")
    assert rate == 44_100
    np.testing.assert_allclose(heard, whole[round(0.25 * rate) : round(0.75 * rate)], atol=2 / 2**15)


@pytest.mark.parametrize(
    ("odd", "says"),
    [({"extra": "a note"}, "train row 0: extra must be"), ({"votes": [3, 1]}, "train row 0: votes must be")],
)
def test_a_dataset_of_another_form_is_refused_by_row(tmp_path, odd, says):
    import datasets

    record = {"comment": "Oh no.", "votes": {"joy": 1.0}, **odd}
    datasets.DatasetDict({"train": datasets.Dataset.from_list([record])}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(UserError, match=says):
        convert_texts(tmp_path / "d", tmp_path / "m.jsonl")


def test_a_dataset_of_texts_with_other_split_names(tmp_path):
    import datasets

    part = datasets.Dataset.from_list([{"comment": "Oh no.", "votes": {"joy": 0.0, "anger": 2.0}, "n": 3}])
    datasets.DatasetDict({"validation": part}).save_to_disk(str(tmp_path / "d"))
    given = ("convert", tmp_path / "d", "--from", "datasets", "--task", "goemotions", "--out", tmp_path / "m.jsonl")
    result = CliRunner().invoke(app, [*map(str, given)], catch_exceptions=False)
    assert "validation row 0: left out are columns of no text: n" in result.stderr
    (row,) = read_manifest(tmp_path / "m.jsonl")
    assert row == Row("validation_0", "goemotions", "dev", text={"comment": "Oh no."}, votes={"anger": 2})
    datasets.DatasetDict({"extra": part}).save_to_disk(str(tmp_path / "e"))
    with pytest.raises(UserError, match="no split is called 'extra'"):
        convert_texts(tmp_path / "e", tmp_path / "m.jsonl")


def test_what_cannot_be_converted_is_said(corpus, tmp_path):
    folder, _ = corpus
    manifest, out = folder / "m.jsonl", tmp_path / "o"
    cases = [
        ((manifest, "--out", out), "say --to lhotse or datasets"),
        ((manifest, "--out", out, "--to", "kaldi"), "--to is 'kaldi'; use one of lhotse, datasets"),
        ((manifest, "--out", out, "--to", "lhotse"), "--audio-root: name the folder"),
        ((manifest, "--out", folder, "--to", "datasets"), "is there already, and not empty"),
        ((manifest, "--out", out, "--to", "datasets"), "name the folder that it lies in"),
        ((manifest, "--out", out, "--to", "datasets", "--audio-root", tmp_path), "row a: .*one.wav: cannot be read"),
        ((tmp_path, "--out", out, "--from", "datasets"), "not a dataset that `save_to_disk` wrote"),
        ((tmp_path / "no", "--out", out, "--from", "lhotse"), "no such folder"),
    ]
    for arguments, says in cases:
        with pytest.raises(UserError, match=says):
            invoke("data", "convert", *arguments)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "recordings.jsonl").write_text(json.dumps({"id": "a", "sources": []}) + "\n")
    (tmp_path / "bad" / "supervisions.jsonl").write_text("")
    with pytest.raises(UserError, match="recordings.jsonl:1: not a recording of Lhotse's"):
        invoke("data", "convert", tmp_path / "bad", "--from", "lhotse", "--out", tmp_path / "m.jsonl")
    record = {"id": "a", "sources": [{"source": "/etc/passwd"}]}
    (tmp_path / "bad" / "recordings.jsonl").write_text(json.dumps(record) + "\n")
    segment = {"id": "u", "recording_id": "a", "start": 0, "duration": 1}
    (tmp_path / "bad" / "supervisions.jsonl").write_text(json.dumps(segment) + "\n")
    with pytest.raises(UserError, match="must be relative and stay under the audio root"):
        invoke(
            "data", "convert", tmp_path / "bad", "--from", "lhotse", "--task", "crema_d", "--out", tmp_path / "m.jsonl"
        )
