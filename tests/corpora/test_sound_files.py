"""Names of clips as uploads, spreadsheets and other systems leave them."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.corpora.sound_files import NOT_THERE, UNCLEAR, find_sound_files
from shala_audio.errors import UserError
from shala_audio.io import read_json
from shala_audio.manifest import read_manifest
from tests.cli.test_cli import invoke


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("name", "file", "told"),
    [
        ("a.wav", "a.wav", None),
        ("a", "a.flac", None),
        ("deep/a.wav", "deep/a.wav", None),
        (r"C:\Users\me\speech\a b.wav", "a b.wav", "last part"),
        (r"speech\a.wav", "a.wav", "last part"),
        ("/data/project/a.wav", "x/a.wav", "last part"),
        ("https://host/path/a%20b.wav?X-Key=1#t", "a b.wav", "last part"),
        ("s3://bucket/a.wav", "a.wav", "last part"),
        ("a.WAV", "a.wav", "another suffix"),
        ("a.wav", "A.WAV", "another suffix"),
        ("a.mp3", "a.wav", "another suffix"),
        (r"D:\x\a.m4a", "a.wav", "another suffix"),
        ("My clip (1).wav", "My_clip_1.wav", "upload"),
        ("Übung 1.wav", "Ubung_1.wav", "upload"),
        ("clip.wav", "0a1b2c3d-clip.wav", "upload"),
        ("7", "007.wav", "leading zeros"),
        ("7.0", "0007.wav", "leading zeros"),
        ("7.wav", "007.wav", "leading zeros"),
        ("spk_7.wav", "spk_007.wav", "leading zeros"),
        ("my%20clip.wav", "my clip.wav", "last part"),
        ("a.wav?token=1", "a.wav", "last part"),
        ('"a.wav"', "a.wav", "last part"),
        ("http://[bad/a.wav", "a.wav", "last part"),
        (unicodedata.normalize("NFC", "café.wav"), unicodedata.normalize("NFD", "café.wav"), None),
    ],
)
def test_names_and_files(tmp_path, name, file, told):
    """Each ended in "the corpus has no rows"."""
    notes: list[str] = []
    found, missing, _ = find_sound_files(folder(tmp_path, file, "other/zzz.wav"), [name], notes.append)
    assert not missing and found[name] == tmp_path / file
    assert len(notes) == (told is not None) and (told is None or (told in notes[0] and file in notes[0]))


def test_names_that_could_mean_several_files_are_left_out(tmp_path):
    found, missing, _ = find_sound_files(
        folder(tmp_path, "x/a.wav", "y/a.wav", "b.wav"), [r"C:\a.wav", "c.wav", "b.wav"], print
    )
    assert list(found) == ["b.wav"] and missing == {r"C:\a.wav": UNCLEAR, "c.wav": NOT_THERE}
    with pytest.raises(UserError, match=r"a: both x/a\.wav and y/a\.wav have that name"):
        find_sound_files(tmp_path, ["a"], print)
    with pytest.raises(UserError, match=r"b\.wav and /data/b\.wav are one clip"):
        find_sound_files(tmp_path, ["b.wav", "/data/b.wav"], print)


def test_folders_of_a_path_choose_among_files_of_one_name(tmp_path):
    root = folder(tmp_path, "Actor_01/1.wav", "Actor_02/1.wav", "Actor_02/2.wav")
    names = ["/data/x/Actor_02/1.wav", r"C:\d\Actor_01\1.wav", "Actor_01/2.wav", "/elsewhere/1.wav", "1.5.wav"]
    _, missing, otherwise = find_sound_files(root, names, lambda remark: None)
    assert otherwise == {names[0]: "Actor_02/1.wav", names[1]: "Actor_01/1.wav"}
    assert missing == {names[2]: NOT_THERE, names[3]: UNCLEAR, names[4]: NOT_THERE}, (
        "another speaker's clip is no match"
    )


names = st.lists(
    st.text("abcäß 123_-", min_size=1, max_size=8).filter(lambda name: name.strip() == name), unique=True, min_size=1
)


@settings(max_examples=60, deadline=None)
@given(names, st.sampled_from(["{}", "{}.wav", r"C:\x\{}.wav", "/a/b/{}.wav", "https://h/{}.wav?k=1", "{}.MP3"]))
def test_no_name_finds_the_file_of_another(tmp_path_factory, names, pattern):
    root = folder(tmp_path_factory.mktemp("clips"), *(f"{name}.wav" for name in names))
    wanted = {pattern.format(name): f"{name}.wav" for name in names}
    found, missing, _ = find_sound_files(root, list(wanted), lambda remark: None)
    assert {name: path.name for name, path in found.items()} == wanted and not missing


def test_what_is_left_out_is_listed_with_an_example(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        soundfile.write(
            tmp_path / "clips" / f"{name}.wav", np.random.default_rng(ord(name)).uniform(-1, 1, 800), 16_000
        )
    (tmp_path / "v.csv").write_text("file,feels\na,sad\nb,calm\ngone1,sad\ngone2,sad\n")
    command = ("data", "votes", tmp_path / "v.csv", "--item", "file", "--label", "feels", "--clips", tmp_path / "clips")
    result = CliRunner().invoke(app, list(map(str, [*command, "--out", tmp_path / "data"])), catch_exceptions=False)
    assert "left out: 2 items without a sound file, such as gone1" in result.stderr
    assert read_json(tmp_path / "data" / "summary.json")["left_out_items"] == {NOT_THERE: ["gone1", "gone2"]}
    assert len(read_manifest(tmp_path / "data" / "manifest.jsonl")) == 2
    (tmp_path / "w.csv").write_text("file,feels\ngone1,sad\ngone2,calm\n")
    with pytest.raises(UserError, match="the corpus has no rows: 2 items without a sound file, such as 'gone1'"):
        invoke(*("data", "votes", tmp_path / "w.csv", *command[3:]), "--out", tmp_path / "none")
