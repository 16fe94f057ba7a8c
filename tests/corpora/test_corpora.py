"""Each corpus from a small imitation of its own files, and from the real ones where they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shala_audio.corpora import chaosnli, crema_d, goemotions
from shala_audio.corpora.prepare import Prepared, sound_duration, write_prepared
from shala_audio.corpora.splits import check_speakers
from shala_audio.errors import UserError
from shala_audio.manifest import Row, read_manifest
from shala_audio.task import Label, Task, load_task

MOOD = Task("mood", "text", (Label("up", "up"), Label("down", "down")), "Mood of: {{ text.comment }}", "It is")


def nli_item(index: int) -> dict:
    return {
        "uid": f"u{index}",
        "label_count": [60, 30, 10],
        "example": {"premise": f"Premise {index // 3}.", "hypothesis": f"Hypothesis {index}."},
    }


def test_chaosnli_splits_by_premise(tmp_path):
    lines = [json.dumps(nli_item(index)) for index in range(60)]
    (tmp_path / "chaosNLI_snli.jsonl").write_text("\n".join(lines))
    prepared = chaosnli.prepare(tmp_path, seed=0)
    assert prepared.rows[0].votes == {"entailment": 60, "neutral": 30, "contradiction": 10}
    splits = {}
    for row in prepared.rows:
        splits.setdefault(row.text["premise"], set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {row.split for row in prepared.rows} == {"train", "dev", "test"}


def test_chaosnli_names_the_bad_line(tmp_path):
    (tmp_path / "chaosNLI_snli.jsonl").write_text(json.dumps(nli_item(0)) + '\n{"uid": "x"}\n')
    with pytest.raises(UserError, match="chaosNLI_snli.jsonl:2"):
        chaosnli.prepare(tmp_path, seed=0)


def test_goemotions_aggregated(tmp_path):
    names = load_task("goemotions").label_names
    (tmp_path / "labels.txt").write_text("\n".join(names))
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"Oh no\t25,14\t{split}1\nFine\t27\t{split}2\n")
    rows = goemotions.prepare(tmp_path, seed=0).rows
    assert rows[0].votes == {"sadness": 1, "fear": 1}
    assert [row.split for row in rows] == ["train"] * 2 + ["dev"] * 2 + ["test"] * 2


def test_goemotions_with_other_labels_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("admiration\namusement\n")
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("Oh no\t25\tx1\n")
    with pytest.raises(UserError, match=r"labels.txt: names 2 labels, and comment x1 has number 25"):
        goemotions.prepare(tmp_path, seed=0)
    (tmp_path / "train.tsv").write_bytes(b"\xff\t1\tx1\n")
    with pytest.raises(UserError, match=r"train.tsv: not UTF-8"):
        goemotions.prepare(tmp_path, seed=0)


def test_goemotions_raters_split_their_mass(tmp_path):
    names = load_task("goemotions").label_names
    header = ["text", "id", "rater_id", "example_very_unclear", *names]

    def rating(identity: str, rater: int, chosen: list[str]) -> list:
        return ["text", identity, rater, not chosen, *[int(name in chosen) for name in names]]

    for number in (1, 2, 3):
        with open(tmp_path / f"goemotions_{number}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerow(rating("a", number, ["joy"] if number == 1 else ["joy", "love"]))
            writer.writerow(rating("b", number, []))
    prepared = goemotions.prepare(tmp_path, seed=0)
    (row,) = prepared.rows
    assert row.votes == {"joy": 2, "love": 1}
    assert row.extra["raters"] == {"1": ["joy"], "2": ["joy", "love"], "3": ["joy", "love"]}
    assert prepared.left_out["ratings without a label (very unclear)"] == 3


def test_crema_d_keeps_the_votes_on_sound_alone(tmp_path):
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "processedResults").mkdir()
    actors = [str(1000 + index) for index in range(10)]
    demographics = "\n".join(f'{actor},30,"{"Male" if int(actor) % 2 else "Female"}"' for actor in actors)
    (tmp_path / "VideoDemographics.csv").write_text('\ufeff"ActorID","Age","Sex"\n' + demographics)  # as Excel saves it
    lines = ['"","A","D","F","H","N","S","fileName"']
    for index, actor in enumerate(actors):
        soundfile.write(tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav", np.zeros(8000), 16000)
        lines.append(f'"1{index:05d}",6,2,0,0,1,0,"{actor}_DFA_ANG_XX"')
        lines.append(f'"2{index:05d}",0,0,0,0,0,9,"{actor}_DFA_ANG_XX"')
    lines.append('"199999",1,0,0,0,0,0,"1000_DFA_SAD_XX"')
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    prepared = crema_d.prepare(tmp_path, seed=0)
    assert len(prepared.rows) == 10
    assert prepared.rows[0].votes == {"anger": 6, "disgust": 2, "neutral": 1}
    assert prepared.rows[0].audio.duration == 0.5
    assert prepared.left_out == {"votes on the face or on face and voice": 10, "clips without a sound file": 1}
    check_speakers(prepared.rows)
    lines.append('"188888",1,0,0,0,0,0,"holiday"')
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="tabulatedVotes.csv:23: not a row of votes"):
        crema_d.prepare(tmp_path, seed=0)


def test_an_mp3s_length_is_not_taken_from_its_header(tmp_path):
    """It is an estimate: as a row's duration it would cut sound, or ask for more than there is."""
    for name in ("a.mp3", "a.wav"):
        soundfile.write(tmp_path / name, 0.1 * np.sin(np.arange(16_000) / 9), 16_000)
    assert sound_duration(tmp_path / "a.wav") == 1.0 and sound_duration(tmp_path / "a.mp3") is None


def test_what_a_manifest_cannot_hold_is_not_written(tmp_path):
    rows = [Row("a\nb", "mood", "train", text={"comment": "hi"}, votes={"up": 1})]
    with pytest.raises(UserError, match=r"row 'a\\nb': `id` holds the control character"):
        write_prepared(Prepared(rows), MOOD, tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_max_rows_keeps_the_shares_and_is_counted(tmp_path):
    lines = [json.dumps(nli_item(index)) for index in range(300)]
    (tmp_path / "chaosNLI_snli.jsonl").write_text("\n".join(lines))
    prepared = chaosnli.prepare(tmp_path, seed=0)
    summary = write_prepared(prepared, load_task("chaosnli"), tmp_path / "out", 0, max_rows=100)
    counts = {split: found["rows"] for split, found in summary["splits"].items()}
    assert abs(counts["train"] - 75) <= 2 and 95 <= sum(counts.values()) <= 100
    assert summary["left_out"]["over --max-rows"] == 300 - sum(counts.values())
    assert len(read_manifest(tmp_path / "out" / "manifest.jsonl")) == sum(counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chaosnli", "goemotions", "crema_d"])
def test_real_corpora(corpora, tmp_path, name):
    if not (corpora / name).is_dir():
        pytest.skip(f"{corpora / name} is not here")
    module = {"chaosnli": chaosnli, "goemotions": goemotions, "crema_d": crema_d}[name]
    summary = write_prepared(module.prepare(corpora / name, 0), load_task(name), tmp_path, 0)
    assert {"train", "dev", "test"} <= set(summary["splits"])
    assert (
        summary["split_sha256"]
        == write_prepared(module.prepare(corpora / name, 0), load_task(name), tmp_path, 0)["split_sha256"]
    )


@pytest.mark.parametrize("part", ["snli", "mnli"])
def test_the_published_folds_are_those_we_make(corpora, part):
    if not (corpora / "chaosnli").is_dir():
        pytest.skip(f"{corpora / 'chaosnli'} is not here")
    published = json.loads((Path(__file__).parents[2] / "recipes" / "chaosnli" / "folds.json").read_text())[part]
    for fold, identities in enumerate(published):
        rows = chaosnli.prepare(corpora / "chaosnli", 3, part, fold).rows
        assert sorted(row.id for row in rows if row.split == "test") == sorted(identities)
        premises = {split: {r.text["premise"] for r in rows if r.split == split} for split in ("train", "dev", "test")}
        assert not premises["test"] & (premises["train"] | premises["dev"]) and premises["dev"]


@pytest.mark.parametrize("fold", range(5))
def test_crema_d_folds_keep_speakers_apart(corpora, fold):
    if not (corpora / "crema_d").is_dir():
        pytest.skip(f"{corpora / 'crema_d'} is not here")
    rows = crema_d.prepare(corpora / "crema_d", 0, fold).rows
    speakers = {split: {row.speaker for row in rows if row.split == split} for split in ("train", "dev", "test")}
    assert all(speakers.values()) and sum(map(len, speakers.values())) == len({row.speaker for row in rows})


def test_the_published_crema_d_folds_are_those_we_make(tmp_path):
    """Of all 91 actors, whose sex the official repository lists; here with one clip each."""
    published = json.loads((Path(__file__).parents[2] / "recipes" / "crema_d" / "folds.json").read_text())
    sex = {actor: name for name, folds in published.items() for fold in folds for actor in fold}
    assert len(sex) == 91
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "processedResults").mkdir()
    lines = ['"","A","D","F","H","N","S","fileName"']
    for index, actor in enumerate(sorted(sex)):
        soundfile.write(tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav", np.zeros(1600), 16_000)
        lines.append(f'"1{index:05d}",3,0,0,0,1,0,"{actor}_DFA_ANG_XX"')
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    actors = "\n".join(f"{actor},30,{name}" for actor, name in sorted(sex.items()))
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n" + actors)
    for fold in range(5):
        rows = crema_d.prepare(tmp_path, 3, fold).rows
        assert {row.speaker for row in rows if row.split == "test"} == {
            a for folds in published.values() for a in folds[fold]
        }


def test_goemotions_in_one_file(tmp_path):
    """As it is passed on elsewhere; and a rater who stands there twice has one vote."""
    names = load_task("goemotions").label_names
    with open(tmp_path / "go_emotions_dataset.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "rater_id", "example_very_unclear", *names])
        for identity, text, rater, label in [
            ("a", "Oh no.", 1, "joy"),
            ("a", "Oh no.", 1, "joy"),
            ("a", "Oh no.", 2, "love"),
            *((f"t{number}", "thank you" if number % 2 else "Thank  you\u200b", 1, "joy") for number in range(20)),
        ]:
            writer.writerow([identity, text, rater, False, *[int(name == label) for name in names]])
    prepared = goemotions.prepare(tmp_path, seed=0)
    rows = {row.id: row for row in prepared.rows}
    assert rows["a"].votes == {"joy": 1, "love": 1}
    assert prepared.left_out["ratings of a rater who stands there before"] == 1
    assert len({row.split for row in rows.values() if row.id != "a"}) == 1, "one text, one split"


def test_the_folds_of_emo_superb(tmp_path):
    """Test 1001 to 1018, 1019 to 1036, ..., 1073 to 1091; dev is the next block."""
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "processedResults").mkdir()
    actors = [str(actor) for actor in range(1001, 1092)]
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n" + "\n".join(f"{a},30,Male" for a in actors))
    lines = ['"","A","D","F","H","N","S","fileName"']
    for index, actor in enumerate(actors):
        (tmp_path / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav").touch()
        lines.append(f'"1{index:05d}",6,2,0,0,1,0,"{actor}_DFA_ANG_XX"')
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text("\n".join(lines))
    tested = []
    for fold in range(5):
        splits = {}
        for row in crema_d.prepare(tmp_path, 0, fold, "emo_superb").rows:
            splits.setdefault(row.split, []).append(int(row.speaker))
        tested.append((min(splits["test"]), max(splits["test"])))
        blocks = [(1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091)]
        assert (min(splits["dev"]), max(splits["dev"])) == blocks[(fold + 1) % 5]
        assert sum(map(len, splits.values())) == 91
    assert tested == [(1001, 1018), (1019, 1036), (1037, 1054), (1055, 1072), (1073, 1091)]
    wrong = [(None, "emo_superb", "name one with"), (5, "emo_superb", "use 0 to 4"), (0, "iemocap", "use emo_superb")]
    for fold, split, message in wrong:
        with pytest.raises(UserError, match=message):
            crema_d.prepare(tmp_path, 0, fold, split)
