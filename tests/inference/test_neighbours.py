from __future__ import annotations

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.inference.neighbours import Neighbours, find_neighbours
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import Audio, Row, write_manifest
from tests.tiny import tiny_model


def text_rows(count: int) -> list[Row]:
    return [
        Row(f"r{n}", "tiny_text", "train", text={"comment": "ab " * n}, votes={"anger": n, "disgust": 3})
        for n in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def predictor(tiny_lm):
    return Predictor(tiny_model(tiny_lm), device="cpu", batch_size=4)


def test_each_item_is_nearest_to_itself(predictor):
    rows = text_rows(10)
    found = find_neighbours(predictor, rows, None, None)
    for row in rows:
        nearest = found.nearest(predictor.predict_with_states([(None, dict(row.text))])[0][1])
        assert (nearest[0].id, nearest[0].votes, nearest[0].text) == (row.id, row.votes, row.text)
        assert nearest[0].likeness == pytest.approx(1, abs=1e-4)
        assert [item.likeness for item in nearest] == sorted((item.likeness for item in nearest), reverse=True)


def test_order_and_batches_do_not_matter(predictor, tiny_lm):
    rows = text_rows(7)
    alone = Predictor(tiny_model(tiny_lm), device="cpu", batch_size=1)
    one, two = find_neighbours(predictor, rows, None, None), find_neighbours(alone, rows[::-1], None, None)
    state = predictor.predict_with_states([(None, "ab ab cd")])[0][1]
    np.testing.assert_allclose(
        [item.likeness for item in one.nearest(state, 7)], [item.likeness for item in two.nearest(state, 7)], atol=1e-4
    )


def test_likeness_is_the_cosine_of_centred_states():
    rng = np.random.default_rng(0)
    states, state = rng.standard_normal((30, 12)), rng.standard_normal(12)
    rows = [Row(str(n), "t", "train", text={"a": "b"}, votes={"x": 1}) for n in range(30)]
    centred, mine = states - states.mean(axis=0), state - states.mean(axis=0)
    cosine = centred @ mine / np.linalg.norm(centred, axis=1) / np.linalg.norm(mine)
    found = Neighbours.fit(rows, states).nearest(state, 30)  # all 12 axes are kept
    assert [int(item.id) for item in found] == np.argsort(-cosine).tolist()
    np.testing.assert_allclose([item.likeness for item in found], np.sort(cosine)[::-1], atol=1e-9)


def test_entropies_are_those_of_the_votes(predictor):
    found = find_neighbours(predictor, text_rows(3), None, None).entropies()
    shares = [np.array([n, 3]) / (n + 3) for n in (1, 2, 3)]
    np.testing.assert_allclose(found, sorted(-(p * np.log2(p)).sum() for p in shares))


def test_saved_and_loaded(predictor, tmp_path):
    assert Neighbours.load(tmp_path) is None
    found = find_neighbours(predictor, text_rows(6), None, None)
    found.save(tmp_path)
    state = predictor.predict_with_states([(None, "ab ab")])[0][1]
    loaded = Neighbours.load(tmp_path)
    assert [item.id for item in loaded.nearest(state)] == [item.id for item in found.nearest(state)]
    Neighbours(found.items[:2], found.mean, found.axes, found.places).save(tmp_path)
    with pytest.raises(UserError, match="do not belong together"):
        Neighbours.load(tmp_path)


def test_rows_without_votes_are_no_neighbours(predictor):
    rows = [*text_rows(2), Row("silent", "tiny_text", "train", text={"comment": "x"})]
    assert len(find_neighbours(predictor, rows, None, None).items) == 2
    with pytest.raises(UserError, match="fewer than two"):
        find_neighbours(predictor, rows[1:], None, None)


def test_command_on_sound(tiny_lm, tiny_encoder, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(4):
        soundfile.write(tmp_path / f"{n}.wav", 0.1 * rng.standard_normal(8000), 16_000)
        rows.append(Row(str(n), "tiny_speech", "train", audio=Audio(f"{n}.wav"), votes={"anger": 2}))
    write_manifest(tmp_path / "m.jsonl", rows)
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "model")
    arguments = [
        "models",
        "neighbours",
        str(tmp_path / "model"),
        str(tmp_path / "m.jsonl"),
        "--audio-root",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    predictor = Predictor.from_pretrained(tmp_path / "model", device="cpu")
    found = Neighbours.load(tmp_path / "model").nearest(
        predictor.predict_with_states([(tmp_path / "2.wav", None)])[0][1]
    )
    assert (found[0].id, found[0].votes) == ("2", {"anger": 2})
    with pytest.raises(UserError, match="name the audio root"):
        find_neighbours(predictor, rows, None, None)


@pytest.mark.parametrize("readout", ["label_token", "slots"])
def test_an_answer_and_its_state_come_together(tiny_lm, readout):
    """From one pass where the readout has it, and the same as asked for apart."""
    predictor = Predictor(tiny_model(tiny_lm, readout=readout), device="cpu")
    answer, state = predictor.predict_with_states([(None, "ab ab cd")])[0]
    assert answer == predictor.predict(text="ab ab cd")
    apart = predictor.states(predictor.inputs(None, [{"comment": "ab ab cd"}]))[0]
    np.testing.assert_allclose(state, apart, atol=1e-4)
