from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import typer

from shala_audio.audio import features as module
from shala_audio.audio.augment import PAUSE_SECONDS, mask_features, over_telephone, perturb
from shala_audio.audio.encoders import load_encoder
from shala_audio.audio.features import FeatureStore, augmented_id, write_features
from shala_audio.audio.io import SAMPLE_RATE
from shala_audio.cli.features import _in_processes
from shala_audio.errors import UserError
from shala_audio.manifest import Audio, Row, write_manifest
from tests.audio.broken import BROKEN, voice

ENCODER = {"encoder": "tiny", "layers": [1, 2], "trim_db": None, "weights": ""}


def make_rows(root, count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        soundfile.write(root / f"{index}.wav", 0.1 * rng.standard_normal(4000 + 700 * index), 16_000)
        rows.append(Row(f"row {index}", "t", "train", audio=Audio(f"{index}.wav")))
    return rows


def test_features_are_what_the_encoder_says(tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(module, "SHARD_CLIPS", 3)
    rows = make_rows(tmp_path, 7)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 7
    store = FeatureStore(out, ENCODER)
    for row in rows:
        samples, _ = soundfile.read(tmp_path / row.audio.path, dtype="float32")
        (expected,) = encoder.encode([samples])
        assert store.frames(row.id) == expected.shape[1]
        torch.testing.assert_close(store[row.id].float(), expected, atol=2e-3, rtol=2e-3)


def test_only_what_is_missing_or_changed_is_encoded(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 4)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    assert write_features(rows[:2], tmp_path, encoder, ENCODER, out).new == 2
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 2
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 0
    soundfile.write(tmp_path / "1.wav", np.ones(8000) * 0.1, 16_000)
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 1
    assert FeatureStore(out)["row 1"].shape[1] == 25


def test_a_file_that_was_moved_keeps_its_features(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 2)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    write_features(rows, tmp_path, encoder, ENCODER, out, augmentations=1)
    (tmp_path / "1.wav").rename(tmp_path / "one.wav")
    rows[1] = replace(rows[1], audio=Audio("one.wav"))
    with pytest.raises(UserError, match="row 1 is of other sound now"):
        FeatureStore(out).check(rows)
    done = write_features(rows, tmp_path, encoder, ENCODER, out, augmentations=1)
    assert (done.new, done.old) == (0, 4)
    store = FeatureStore(out)
    store.check(rows)
    assert store["row 1"].shape[1] == store.frames("row 1") and store.augmentations("row 1", 1)


def test_shards_are_bounded_in_bytes_and_files_read_once(tmp_path, tiny_encoder, monkeypatch):
    rows = make_rows(tmp_path, 3)
    rows += [replace(rows[2], id=f"part {start}", audio=Audio("2.wav", start, 0.1)) for start in (0.0, 0.1)]
    digest, hashed = module._digest, []
    monkeypatch.setattr(module, "_digest", lambda path: hashed.append(path.name) or digest(path))
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    monkeypatch.setattr("shala_audio.audio.encoders.BATCH_SECONDS", 0.3)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    assert write_features(rows, tmp_path, encoder, ENCODER, tmp_path / "features").new == 5
    assert sorted(hashed) == ["0.wav", "1.wav", "2.wav"]
    store = FeatureStore(tmp_path / "features")
    assert len({entry["shard"] for entry in store.entries.values()}) == 4, "two short parts share a batch"
    for row in rows:
        assert store[row.id].shape[1] == store.frames(row.id)


def test_another_encoders_features_are_refused(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 1)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    write_features(rows, tmp_path, encoder, ENCODER | {"weights": "a"}, tmp_path / "features")
    for change in ({"layers": [1]}, {"trim_db": 30.0}, {"loudness_db": -26.0}, {"weights": "b"}, {"encoder": "other"}):
        other = ENCODER | {"weights": "a"} | change
        with pytest.raises(UserError, match=f"{next(iter(change))} .* instead of"):
            FeatureStore(tmp_path / "features", other)
        with pytest.raises(UserError, match="use another folder"):
            write_features(rows, tmp_path, encoder, other, tmp_path / "features")
    FeatureStore(tmp_path / "features", ENCODER)  # weights that are not known are not compared
    with pytest.raises(UserError, match="row 9"):
        FeatureStore(tmp_path / "features")["row 9"]


def test_other_stretches_than_the_manifest_s_are_refused(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 2)
    write_features(rows, tmp_path, load_encoder(str(tiny_encoder), [1, 2]), ENCODER, tmp_path / "features")
    store = FeatureStore(tmp_path / "features")
    store.check(rows)
    moved = [rows[0], replace(rows[1], audio=Audio("1.wav", 0.05))]
    with pytest.raises(UserError, match="row 1 is of other sound now"):
        store.check(moved)


def test_an_interruption_costs_a_shard_at_most(tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(module, "SHARD_CLIPS", 2)
    rows = make_rows(tmp_path, 6)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    calls = []
    encode = encoder.encode

    def stop_in_the_third(clips):
        calls.append(clips)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(clips)

    monkeypatch.setattr(encoder, "encode", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_features(rows, tmp_path, encoder, ENCODER, out)
    with open(out / "index.jsonl", "a") as index:
        index.write('{"id": "row 5", "frames"')  # as a kill in the middle of a line leaves it
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 2
    store = FeatureStore(out)
    assert all(store[row.id].shape[1] == store.frames(row.id) for row in rows)


def test_bad_sound_is_named_and_the_rest_encoded(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 2)
    for number, (name, (make, _)) in enumerate(BROKEN.items()):
        make(tmp_path / name)
        rows.append(Row(f"bad {number}", "t", "train", audio=Audio(name)))
    done = write_features(rows, tmp_path, load_encoder(str(tiny_encoder), [1, 2]), ENCODER, tmp_path / "features")
    assert done.new == 2 and len(done.bad) == len(BROKEN)
    for number, (name, (_, message)) in enumerate(BROKEN.items()):
        assert re.search(f"{name}: .*({message})", done.bad[f"bad {number}"]), done.bad[f"bad {number}"]
    store = FeatureStore(tmp_path / "features")
    assert "row 1" in store and "bad 1" not in store


def test_copies_of_training_rows_sound_different(tmp_path, tiny_encoder):
    rows = [*make_rows(tmp_path, 2)]
    rows[1] = replace(rows[1], split="test")
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    out = tmp_path / "features"
    assert write_features(rows, tmp_path, encoder, ENCODER, out, augmentations=2).new == 4
    store = FeatureStore(out)
    assert [len(store.augmentations(row.id, 2)) for row in rows] == [2, 0]
    assert store.augmentations("row 0", 1) == [augmented_id("row 0", 1)]
    slow, fast = (store.frames(augmented_id("row 0", copy)) for copy in (1, 2))
    assert slow > store.frames("row 0") > fast
    assert write_features(rows, tmp_path, encoder, ENCODER, out, augmentations=2).new == 0
    assert write_features(rows, tmp_path, encoder, ENCODER, out, augmentations=2, seed=1).new == 2
    soundfile.write(tmp_path / "0.wav", voice(0.4), 16_000)
    assert write_features(rows, tmp_path, encoder, ENCODER, out).new == 1
    assert FeatureStore(out).augmentations("row 0", 2) == [], "copies of sound that is no longer there are not heard"


def test_a_clip_that_turned_bad_is_taken_back(tmp_path, tiny_encoder):
    rows = make_rows(tmp_path, 2)
    encoder = load_encoder(str(tiny_encoder), [1, 2])
    write_features(rows, tmp_path, encoder, ENCODER, tmp_path / "features")
    whole = (tmp_path / "1.wav").read_bytes()
    (tmp_path / "1.wav").write_bytes(whole[:2000])
    assert set(write_features(rows, tmp_path, encoder, ENCODER, tmp_path / "features").bad) == {"row 1"}
    assert "row 1" not in FeatureStore(tmp_path / "features")
    (tmp_path / "1.wav").write_bytes(whole)
    assert write_features(rows, tmp_path, encoder, ENCODER, tmp_path / "features").new == 1


def test_copies_that_do_not_fit_are_counted_and_the_clip_kept(tmp_path, tiny_encoder):
    """A clip of nearly 30 s is too long when slowed down, one of 26 ms too short when sped up."""
    for name, seconds in (("0.wav", 29.0), ("1.wav", 0.026)):
        soundfile.write(tmp_path / name, voice(seconds), 16_000)
    rows = [Row(f"row {index}", "t", "train", audio=Audio(f"{index}.wav")) for index in range(2)]
    done = write_features(
        rows, tmp_path, load_encoder(str(tiny_encoder), [1, 2]), ENCODER, tmp_path / "f", augmentations=2
    )
    assert (done.new, done.unfit, done.bad) == (4, 2, {})
    store = FeatureStore(tmp_path / "f")
    assert [store.augmentations(row.id, 2) for row in rows] == [[augmented_id("row 0", 2)], [augmented_id("row 1", 1)]]


@pytest.mark.parametrize("copy", [1, 2, 3])
def test_a_perturbed_copy_is_the_same_each_time(copy):
    clip = voice(1.0)
    first, second = perturb(clip, 3, copy), perturb(clip, 3, copy)
    assert np.array_equal(first, second) and first.dtype == np.float32
    least = 16_000 / (0.9, 1.1, 0.9)[copy - 1]
    assert least - 2 <= len(first) <= least + 2 * PAUSE_SECONDS * SAMPLE_RATE
    assert not np.array_equal(first, perturb(clip, 4, copy))


def test_a_telephone_carries_its_band_in_eight_bits():
    times = np.arange(16_000) / 16_000
    for hertz, passes in ((100, False), (1_000, True), (3_000, True), (3_800, False), (6_000, False)):
        tone = (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)
        heard = over_telephone(tone)[2_000:-2_000]
        assert (np.abs(heard).max() > 0.4) == passes, hertz
    tone = (0.5 * np.sin(2 * np.pi * 1_000 * times)).astype(np.float32)
    heard = over_telephone(tone)
    error = np.sqrt(np.mean((heard - tone)[2_000:-2_000] ** 2) / np.mean(tone**2))
    assert heard.shape == tone.shape and 0.001 < error < 0.03, "A-law's signal to noise is 30 to 40 dB"


def test_masks_fall_inside_each_clip():
    torch.manual_seed(0)
    lengths = torch.tensor([40, 7])
    hidden = torch.zeros(2, 40, dtype=torch.bool)
    for _ in range(50):
        masked = mask_features(torch.ones(2, 2, 40, 30), lengths)
        times, channels = (masked == 0).all(dim=3)[:, 0], (masked == 0).all(dim=2)[:, 0]
        assert times.sum(dim=1)[0] <= 2 * 0.15 * 40 and channels.sum(dim=1).max() <= 3
        hidden |= times
    assert hidden[0].all(), "every frame is hidden now and then"
    assert not hidden[1, 7:].any() and hidden[1, :7].any()


def test_two_at_once_fill_a_folder_together(tmp_path, tiny_encoder, monkeypatch):
    monkeypatch.setattr(module, "SHARD_CLIPS", 2)
    rows = make_rows(tmp_path, 12)
    out = tmp_path / "features"
    with ThreadPoolExecutor(2) as pool:
        encoders = [load_encoder(str(tiny_encoder), [1, 2]) for _ in range(2)]
        list(pool.map(lambda encoder: write_features(rows, tmp_path, encoder, ENCODER, out), encoders))
    store = FeatureStore(out)
    assert len(store.entries) == 12
    assert all(store[row.id].shape[1] == store.frames(row.id) for row in rows)


@pytest.mark.slow
def test_processes_share_the_work(tmp_path, tiny_encoder):
    write_manifest(tmp_path / "manifest.jsonl", make_rows(tmp_path, 5))
    (tmp_path / "m.yaml").write_text(f"lm: x\nencoder: {tiny_encoder}\nencoder_layers: [1, 2]\n")
    command = [sys.executable, "-m", "shala_audio.cli.main", "features", "manifest.jsonl", "--model", "m.yaml"]
    command += ["--out", "features", "--audio-root", ".", "--nproc", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(re.findall(r"(\d) clips encoded", done.stdout)) == ["0", "2", "3"], "two shares, and all is there"
    assert len(FeatureStore(tmp_path / "features").entries) == 5


def test_a_process_that_was_killed_is_no_success(monkeypatch, tmp_path, tiny_encoder):
    """Its status is below 0, which was less than the other's 0."""
    (tmp_path / "m.yaml").write_text(f"lm: x\nencoder: {tiny_encoder}\nencoder_layers: [1, 2]\n")
    write_manifest(tmp_path / "manifest.jsonl", make_rows(tmp_path, 1))
    monkeypatch.setattr("sys.argv", ["shala-audio", "features"])
    code = iter(["pass", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: start([sys.executable, "-c", next(code)]))
    with pytest.raises(typer.Exit) as stopped:
        _in_processes(2, tmp_path / "manifest.jsonl", str(tmp_path / "m.yaml"))
    assert stopped.value.exit_code == 1
