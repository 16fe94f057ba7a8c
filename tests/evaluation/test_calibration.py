from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import LogisticRegression

from shala_audio.distribution import jsd
from shala_audio.errors import UserError
from shala_audio.evaluation import calibration
from shala_audio.evaluation.calibration import Calibration, fit, load_calibration
from shala_audio.evaluation.metrics import all_measures
from shala_audio.io import write_json

LABELS = ("a", "b", "c")


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def overconfident(rows: int = 2000, temperature: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(0).standard_normal((rows, 3))
    return softmax(logits * temperature), softmax(logits)


def test_the_temperature_is_found():
    predicted, human = overconfident()
    found = fit("temperature", predicted, human, LABELS)
    assert 1 / found.weight[0, 0] == pytest.approx(2.5, abs=0.05)
    assert np.abs(found(predicted) - human).max() < 0.03


def test_the_distance_to_few_votes_asks_for_more_than_the_people_are_sure():
    """Stated as the people are divided: by cross-entropy nothing is to be mended, by jsd to three votes it is too flat."""
    rng = np.random.default_rng(4)
    people = rng.dirichlet([1, 1, 1], size=3000)
    votes = np.stack([rng.multinomial(3, p) / 3 for p in people])
    flat, sharp = (fit(kind, people, votes, LABELS) for kind in ("temperature", "temperature_jsd"))
    assert 1 / flat.weight[0, 0] == pytest.approx(1.0, abs=0.1) and 1 / sharp.weight[0, 0] < 0.8
    assert jsd(votes, sharp(people)).mean() < jsd(votes, people).mean()
    assert jsd(people, sharp(people)).mean() > 0.05, "and is no longer what the people would say"


@pytest.mark.parametrize("seed", range(3))
def test_no_other_temperature_is_nearer(seed):
    rng = np.random.default_rng(seed)
    predicted, human = rng.dirichlet([0.5, 1, 2], size=60), np.eye(3)[rng.integers(0, 3, 60)]
    found = fit("temperature_jsd", predicted, human, LABELS)
    logs = np.log(np.maximum(predicted, 1e-4))
    distances = [jensenshannon(human, softmax(logs * scale), axis=1, base=2) for scale in np.linspace(0.02, 50, 3000)]
    best = min(np.nan_to_num(one).mean() for one in distances)  # SciPy's root of what rounding leaves below 0
    assert jsd(human, found(predicted)).mean() <= best + 1e-6


def test_with_many_raters_ignorance_asks_for_it_too():
    """Rows that look alike to the model differ; a hundred raters each tell precisely how."""
    rng = np.random.default_rng(5)
    people = rng.dirichlet([0.5, 0.5, 0.5], size=4000)
    votes = np.stack([rng.multinomial(100, p) / 100 for p in people])
    alike = people[:, 0].argsort().argsort() // 2000  # all that it tells apart
    predicted = np.stack([votes[alike == group].mean(axis=0) for group in alike])
    flat, sharp = (fit(kind, predicted, votes, LABELS) for kind in ("temperature", "temperature_jsd"))
    assert 1 / flat.weight[0, 0] == pytest.approx(1.0, abs=0.02) and 1 / sharp.weight[0, 0] < 0.9


@pytest.mark.parametrize("predicted", [np.full((20, 3), 1 / 3), np.eye(3)[np.arange(20) % 3]])
def test_answers_that_no_temperature_moves_stay_and_none_is_worse_for_it(predicted):
    human = np.eye(3)[np.arange(20) % 3] * 0.6 + 0.4 / 3
    found = fit("temperature_jsd", predicted, human, LABELS)
    assert jsd(human, found(predicted)).mean() <= jsd(human, predicted).mean() + 1e-9
    if predicted.max() < 0.5:
        assert found.weight[0, 0] == pytest.approx(1.0)


def test_the_penalty_is_chosen_for_speakers_who_were_not_heard():
    """Each of ten speakers is heard with a bias of their own: rows of one in both parts would tell it."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((200, 3))
    speakers = np.repeat(np.arange(10), 20)
    predicted = softmax(logits + rng.normal(0, 1.5, (10, 3))[speakers])
    human = softmax(logits)
    by_row, by_speaker = (
        fit("dirichlet", predicted, human, LABELS, groups) for groups in ([], [f"s{one}" for one in speakers])
    )
    assert by_speaker.penalty > by_row.penalty
    few = fit("dirichlet", predicted, human, LABELS, ["a"] * 100 + ["b"] * 100)
    assert few.penalty == by_row.penalty, "two speakers cannot be parted into five"


def test_dirichlet_undoes_a_linear_map():
    """A temperature cannot mend labels that are confused in one direction; a matrix can."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2000, 3))
    human = softmax(logits)
    wanted = np.array(
        [[1.0, -0.6, 0.6], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    )  # its rows sum to 1: exact on log-probabilities
    predicted = softmax(logits @ np.linalg.inv(wanted).T + [0.5, 0.0, -0.5])
    errors = {}
    for kind in ("temperature", "dirichlet"):
        found = fit(kind, predicted[:1000], human[:1000], LABELS)
        errors[kind] = np.abs(found(predicted[1000:]) - human[1000:]).mean()
    assert errors["dirichlet"] < 0.03 < errors["temperature"]


def test_without_penalty_it_is_scikit_learns_regression(monkeypatch):
    rng = np.random.default_rng(2)
    predicted = rng.dirichlet([1, 1, 1], size=600)
    labels = np.array([rng.choice(3, p=p) for p in softmax(np.log(predicted) * 0.7)])
    monkeypatch.setattr(calibration, "PENALTIES", (1e-9,))
    found = fit("dirichlet", predicted, np.eye(3)[labels], LABELS)
    expected = LogisticRegression(C=1e9, tol=1e-9, max_iter=5000).fit(np.log(np.maximum(predicted, 1e-4)), labels)
    logs = np.log(np.maximum(predicted, 1e-4))
    assert found(predicted) == pytest.approx(expected.predict_proba(logs), abs=2e-3)


def test_little_data_keeps_a_good_model_as_it_is():
    rng = np.random.default_rng(3)
    predicted = rng.dirichlet([1, 1, 1], size=30)
    human = np.stack([rng.multinomial(5, p) / 5 for p in predicted])
    found = fit("dirichlet", predicted, human, LABELS)
    assert found.penalty >= 0.01, "cross-validation asks for restraint"
    assert np.isfinite(found(np.array([[1.0, 0.0, 0.0]]))).all(), "a probability of 0 is allowed"


def test_it_is_stored_and_checked(tmp_path):
    predicted, human = overconfident(50)
    found = fit("dirichlet", predicted, human, LABELS)
    write_json(tmp_path / "c.json", found.to_dict())
    again = load_calibration(str(tmp_path / "c.json"), LABELS)
    assert again(predicted) == pytest.approx(found(predicted))
    with pytest.raises(UserError, match="other labels"):
        load_calibration(str(tmp_path / "c.json"), ("a", "b", "x"))
    (tmp_path / "d.json").write_text('{"kind": "temperature"}')
    with pytest.raises(UserError, match="not a calibration"):
        load_calibration(str(tmp_path / "d.json"), LABELS)
    with pytest.raises(UserError, match="use one of"):
        fit("magic", predicted, human, LABELS)
    with pytest.raises(UserError, match="10 dev rows or more"):
        fit("dirichlet", predicted[:5], human[:5], LABELS)
    assert isinstance(again, Calibration)


def test_a_stored_map_is_applied_with_the_floor_it_was_fitted_with(tmp_path):
    """Files of the version whose floor was 1e-4 do not say so."""
    found = Calibration("temperature", np.eye(3) / 2.5, np.zeros(3), LABELS[:3], 9, floor=1e-4)
    old = found.to_dict()
    assert old.pop("floor") == 1e-4
    write_json(tmp_path / "c.json", old)
    probs = np.array([[0.7, 0.29999, 1e-5]])
    assert load_calibration(str(tmp_path / "c.json"), LABELS[:3])(probs) == pytest.approx(found(probs))


def test_one_floor_for_all_rows_of_a_table():
    """Calibrated predictions were floored at 1e-4 and others at 1e-6, so that their kl could not be compared."""
    predicted = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    votes = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    as_it_is = Calibration("temperature", np.eye(3), np.zeros(3), LABELS[:3], 2)
    kls = [all_measures(votes, found, draws=0)["kl"]["value"] for found in (predicted, as_it_is(predicted))]
    assert kls[0] == pytest.approx(kls[1], rel=1e-6)
