from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.corpora import msp_podcast
from shala_audio.corpora.msp_podcast import Rating, Turn, read_ratings
from shala_audio.corpora.prepare import summarize
from shala_audio.errors import UserError
from shala_audio.task import load_task
from shala_audio.votes import human_distributions
from tests.recipes.make_msp_podcast import CHOICES, FORMS, consensus_code, make_msp_podcast, write_labels

NUANCED = (*CHOICES, "Amused", "Frustrated", "Depressed", "Concerned", "Excited", "Confused", "Annoyed", "Other-so so")


@st.composite
def corpora(draw: st.DrawFn) -> tuple[dict[str, Turn], dict[str, list[Rating]]]:
    turns: dict[str, Turn] = {}
    ratings: dict[str, list[Rating]] = {}
    free = st.text(alphabet="abc -'é;:", max_size=8).map(lambda text: f"Other-{text}".strip())
    genders = {"1": "Male", "22": "Female", "303": "Female"}
    for index in range(draw(st.integers(1, 6))):
        name = f"MSP-PODCAST_{index:04d}_{draw(st.integers(0, 99999)):04d}.wav"
        split = draw(st.sampled_from(["train", "train", "dev", "test", "test2", "test3"]))
        speaker = draw(st.sampled_from([None, *genders]))
        gender = genders.get(str(speaker), "Unknown")
        if split == "test3":
            turns[name] = Turn(split, speaker=speaker, gender=gender)
            continue
        workers = draw(st.lists(st.integers(0, 99999999), min_size=1, max_size=7, unique=True))
        ratings[name] = [
            Rating(
                f"WORKER{worker:08d}",
                draw(st.sampled_from(CHOICES) | free.map(lambda text: text.replace(";", ""))),
                ",".join(draw(st.lists(st.sampled_from(NUANCED), max_size=3))),
                *draw(st.tuples(*[st.integers(1, 7)] * 3)),
            )
            for worker in workers
        ]
        means = [draw(st.integers(1000, 7000)) / 1000 for _ in range(3)]
        code = consensus_code([rating.primary for rating in ratings[name]])
        turns[name] = Turn(split, code, *means, speaker, gender)
    if not ratings:
        name = "MSP-PODCAST_0000_0000.wav"
        turns[name] = Turn("train", "H", 1.0, 2.0, 3.0, "1", "Male")
        ratings[name] = [Rating("WORKER1", "Happy", "", 1, 2, 3)]
    return turns, ratings


@settings(max_examples=40, deadline=None)
@given(corpora(), st.sampled_from(list(msp_podcast.LABELS)), st.sampled_from([0.0, 0.3]))
def test_all_forms_of_a_release_give_the_same_rows(corpus, task, secondary):
    turns, ratings = corpus
    found = {}
    for name, form in FORMS.items():
        with TemporaryDirectory() as folder:
            root = Path(folder)
            write_labels(root, turns, ratings, form)
            (root / "Audios").mkdir()
            for turn in turns:
                (root / "Audios" / turn).touch()
            found[name] = msp_podcast.prepare(root, 0, task, secondary)
    first = found["1.11"]
    for name, prepared in found.items():
        order = {row.id: row for row in prepared.rows}
        assert [order[row.id] for row in first.rows] == first.rows, name
        assert len(prepared.rows) == len(first.rows)
        assert {key: round(count, 9) for key, count in prepared.left_out.items()} == {
            key: round(count, 9) for key, count in first.left_out.items()
        }
    if task != "msp_podcast_4":
        assert len(first.rows) == len(turns)
    for row in first.rows:
        assert not (row.split == "test3" and row.votes)
        if row.votes and task == "msp_podcast_9":
            assert sum(row.votes.values()) == pytest.approx(len(ratings[f"{row.id}.wav"])), "each rater's mass is 1"
        if row.split != "test3":
            assert row.extra["ratings"]["arousal"] == [
                float(rating.arousal) for rating in sorted(ratings[f"{row.id}.wav"], key=lambda rating: rating.worker)
            ]


def test_a_corpus_with_all_that_is_odd(tmp_path):
    make_msp_podcast(tmp_path, turns=40, seed=0)
    prepared = msp_podcast.prepare(tmp_path, seed=0)
    by_split = {split: [row for row in prepared.rows if row.split == split] for split in ("train", "dev", "test")}
    assert all(by_split.values())
    assert prepared.left_out["votes for other"] > 0
    assert prepared.left_out["turns without a sound file"] == 1
    assert any(row.extra["consensus"] == "X" for row in prepared.rows), "turns without a plurality are kept"
    assert any(row.speaker is None for row in prepared.rows)
    assert all(row.audio and row.audio.duration for row in prepared.rows)
    task = load_task("msp_podcast")
    human_distributions([row for row in prepared.rows if row.votes], task.label_names)
    summary = summarize(prepared, task, seed=0)
    assert summary["splits"]["test"]["speakers_also_in_train"] == 0
    nine = msp_podcast.prepare(tmp_path, seed=0, task="msp_podcast_9")
    assert any("other" in row.votes for row in nine.rows) and "votes for other" not in nine.left_out


def test_a_shared_speaker_is_named(tmp_path):
    turns = {
        f"MSP-PODCAST_000{i}_0001.wav": Turn(split, "H", 1.0, 1.0, 1.0, "7", "Male")
        for i, split in enumerate(("train", "test"))
    }
    write_labels(tmp_path, turns, {name: [Rating("WORKER1", "Happy", "", 1, 1, 1)] for name in turns}, FORMS["1.11"])
    (tmp_path / "Audios").mkdir()
    for name in turns:
        (tmp_path / "Audios" / name).touch()
    prepared = msp_podcast.prepare(tmp_path, seed=0)
    assert "in another split: 7;" in prepared.caveat
    assert summarize(prepared, load_task("msp_podcast"), 0)["splits"]["test"]["speakers_also_in_train"] == 1
    partition = (tmp_path / "Partition.txt").read_text()
    (tmp_path / "Partition.txt").write_text(partition.replace("Test1", "Test2"))
    assert "whose split is used: 1." in msp_podcast.prepare(tmp_path, seed=0).caveat


def test_secondary_choices_share_a_vote():
    rating = Rating("w", "Happy", "Happy,Excited,Annoyed,Concerned", None, None, None)
    votes = msp_podcast.to_votes([rating], msp_podcast.LABELS["msp_podcast_9"], 0.4, Counter(), "turn")
    assert votes == pytest.approx({"happiness": 0.8, "anger": 0.1, "other": 0.1})
    tired = Rating("w", "Sad", "Sad,Other-tired, bored,Exited", None, None, None)
    assert tired.secondaries == ["Sad", "Other-tired, bored, Exited"]
    counted: Counter[str] = Counter()
    msp_podcast.to_votes([Rating("w", "Sad", "Exited", None, None, None)], ("sadness",), 0.2, counted, "turn")
    assert any("'Exited'" in reason for reason in counted)


def test_what_is_there_twice_counts_once_and_what_is_not_listed_is_counted(tmp_path):
    names = [f"MSP-PODCAST_0001_000{index}.wav" for index in range(3)]
    turns = {name: Turn("train", "H", 1.0, 1.0, 1.0, "7", "Male") for name in names[:2]}
    once = [Rating("WORKER1", "Happy", "", 1, 1, 1), Rating("WORKER2", "Sad", "", 1, 1, 1)]
    ratings = {names[0]: once, names[1]: [*once, Rating("WORKER1", "Angry", "", 1, 1, 1)]}
    (tmp_path / "Audios").mkdir()
    for name in names:
        (tmp_path / "Audios" / name).touch()
    write_labels(tmp_path, turns, ratings, FORMS["2.0"])
    detailed = tmp_path / "Labels" / "labels_detailed.csv"
    detailed.write_text("\ufeff" + detailed.read_text().replace("\n", "\r\n") + "MSP-PODCAST_9_9.wav,W,Sad,,1,1,1\n\n")
    prepared = msp_podcast.prepare(tmp_path, seed=0)
    assert [sum(row.votes.values()) for row in prepared.rows] == [2, 2]
    assert prepared.rows[1].votes == {"anger": 1, "sadness": 1}
    for reason in (
        "ratings that a later one",
        "turns with ratings that no consensus",
        "sound files that no label file",
    ):
        assert [count for key, count in prepared.left_out.items() if key.startswith(reason)] == [1], reason
    consensus = tmp_path / "Labels" / "labels_consensus.csv"
    consensus.write_text(consensus.read_text() + f"{names[0]},S,1,1,1,7,Male,Test1\n")
    with pytest.raises(UserError, match=f"{names[0]} is listed twice, and not alike"):
        msp_podcast.prepare(tmp_path, seed=0)


@pytest.mark.parametrize(
    ("form", "file", "old", "new", "message"),
    [
        ("1.11", "labels_detailed.csv", "WORKER1; Happy", "WORKER1", "labels_detailed.csv:2: EmoDetail"),
        ("2.0", "labels_detailed.csv", "EmoClass_Major", "Emotion", "labels_detailed.csv:2: not a rating"),
        ("2.0", "labels_detailed.csv", ",3", ",loud", "labels_detailed.csv:2: arousal, valence"),
        ("json", "labels_detailed.json", "}", "", "labels_detailed.json: not JSON"),
        ("json", "labels_consensus.json", "Split_Set", "Split", "not an entry of the consensus labels"),
        ("1.11", "labels_consensus.csv", "Train", "Training", "labels_consensus.csv:2: not an entry"),
        ("txt", "labels.txt", "WORKER1; Happy; ", "WORKER1 ", "labels.txt:2: neither"),
        ("1.11", "../Partition.txt", "Train", "Training", "Partition.txt:1: no split is called 'Training'"),
        ("1.11", "labels_detailed.csv", "Happy", "Joyful", "WORKER1's primary emotion 'Joyful'"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, form, file, old, new, message):
    name = "MSP-PODCAST_0001_0001.wav"
    ratings = {name: [Rating("WORKER1", "Happy", "", 3, 3, 3)]}
    write_labels(tmp_path, {name: Turn("train", "H", 1.0, 1.0, 1.0, "7", "Male")}, ratings, FORMS[form])
    (tmp_path / "Audios").mkdir()
    (tmp_path / "Audios" / name).touch()
    path = tmp_path / FORMS[form].folder / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        msp_podcast.prepare(tmp_path, seed=0)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="Labels"):
        msp_podcast.prepare(tmp_path, seed=0)
    (tmp_path / "Labels").mkdir()
    with pytest.raises(UserError, match="labels_consensus.csv"):
        msp_podcast.prepare(tmp_path, seed=0)
    with pytest.raises(UserError, match="labels_detailed.csv"):
        read_ratings(tmp_path / "Labels")
    with pytest.raises(UserError, match="--secondary"):
        msp_podcast.prepare(tmp_path, seed=0, secondary=1.0)
    with pytest.raises(UserError, match="--task"):
        msp_podcast.prepare(tmp_path, seed=0, task="msp_podcast_5")
