from __future__ import annotations

import numpy as np
import pytest

from shala_audio.audio.io import read_row_audio
from shala_audio.corpora import mini
from shala_audio.corpora.splits import check_speakers


def test_same_seed_same_bytes(tmp_path):
    for folder in ("a", "b"):
        mini.prepare(tmp_path / folder, seed=3, rows=6)
    first, second = (sorted((tmp_path / folder / "audio").iterdir()) for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_rows(tmp_path):
    prepared = mini.prepare(tmp_path, seed=0, rows=60)
    check_speakers(prepared.rows)
    for row in prepared.rows:
        assert sum(row.votes.values()) == mini.LISTENERS
        assert sum(row.extra["true"].values()) == pytest.approx(1)
        samples = read_row_audio(row.audio, tmp_path)
        assert 0.5 < len(samples) / 16_000 < 3 and np.abs(samples).max() <= 1


def test_votes_follow_the_true_distribution():
    draws = np.random.default_rng(0).standard_normal((4000, 2))
    assert mini.true_distribution(0.7, -0.6, draws).argmax() == mini.LABELS.index("anger")
    assert mini.true_distribution(-0.6, 0.5, draws).argmax() == mini.LABELS.index("calm")
    assert mini.true_distribution(0.7, -0.6, draws).max() > mini.true_distribution(0.0, 0.0, draws).max()


def test_arousal_can_be_heard():
    """Loudness and rate follow arousal: the corpus can be learnt."""
    from shala_audio.corpora.mini import Voice, speak

    rng = np.random.default_rng(0)
    voice = Voice(150, 1.0)
    calm, aroused = (np.mean([np.std(speak(voice, a, 0, rng)) for _ in range(5)]) for a in (-1, 1))
    assert aroused > 3 * calm


def test_texts(tmp_path):
    prepared = mini.prepare(tmp_path, seed=0, rows=10, text=True)
    assert all(row.audio is None and row.text["comment"] for row in prepared.rows)
    assert not (tmp_path / "audio").exists()
