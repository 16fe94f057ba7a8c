from __future__ import annotations

import pytest

from shala_audio.errors import UserError
from shala_audio.training import config
from shala_audio.training.config import DirectConfig, GrpoConfig, read_config
from tests.training.helpers import config as settings


@pytest.mark.parametrize(("slowdown", "used"), [(40.0, False), (0.6, True)])
def test_a_cpu_without_bf16_instructions_trains_in_float32(tmp_path, monkeypatch, caplog, slowdown, used):
    """A CPU with AVX2 alone takes some 40 times longer for bfloat16: a demo of minutes would take hours."""
    monkeypatch.setattr(config, "bf16_slowdown", lambda: slowdown)
    assert settings(tmp_path, bf16=True, use_cpu=True).bf16 is used
    assert ("40 times slower" in caplog.text) is not used


def test_a_resumed_run_computes_as_it_began(tmp_path, monkeypatch):
    """On a machine that is busier now, or less so, the timing may say otherwise."""
    (tmp_path / "run.json").write_text('{"precision": "fp32"}')
    monkeypatch.setattr(config, "bf16_slowdown", lambda: 0.5)
    assert settings(tmp_path, bf16=True, use_cpu=True, resume=True).bf16 is False
    (tmp_path / "run.json").write_text('{"precision": "bf16"}')
    monkeypatch.setattr(config, "bf16_slowdown", lambda: 40.0)
    assert settings(tmp_path, bf16=True, use_cpu=True, resume=True).bf16 is True


def test_the_slowdown_is_measured():
    assert 0.05 < config.bf16_slowdown() < 1000


def write(folder, **settings):
    (folder / "settings.yaml").write_text(
        "\n".join(f"{name}: {value}" for name, value in {"seed": 0, **settings}.items())
    )
    return ["--config", str(folder / "settings.yaml"), "--manifest", "m.jsonl", "--output-dir", str(folder / "out")]


def test_off_in_a_file_is_off(tmp_path):
    """YAML reads `off` as false."""
    assert read_config(write(tmp_path, ambiguity="off")).ambiguity == "off"


def test_the_method_and_the_readout_decide_which_settings_there_are(tmp_path, caplog):
    shared = {"num_generations": 4, "direct_loss": "distance", "learning_rate": "1.0e-3"}
    direct = read_config([*write(tmp_path, **shared), "--method", "shala"])
    assert isinstance(direct, DirectConfig) and direct.direct_loss == "distance" and direct.learning_rate == 1e-3
    assert "num_generations: no part in method shala with readout label_token" in caplog.text
    drawn = read_config([*write(tmp_path, **shared), "--readout", "slots"])
    assert isinstance(drawn, GrpoConfig) and drawn.num_generations == 4
    with pytest.raises(UserError, match="--num_generations: no part in method sft_soft"):
        read_config([*write(tmp_path), "--method", "sft_soft", "--num-generations", "4"])
    with pytest.raises(UserError, match="--direct_loss: no part in method shala with readout slots"):
        read_config([*write(tmp_path), "--readout", "slots", "--direct-loss", "distance"])


def test_flags_are_written_with_hyphens_or_underscores_and_old_names_still_work(tmp_path):
    for flags in (["--learning-rate", "0.1"], ["--learning_rate=0.1"]):
        assert read_config([*write(tmp_path), *flags]).learning_rate == 0.1
    old = {"ear_learning_rate": 0.1, "copies": 2, "exact_loss": "distance"}
    found = read_config([*write(tmp_path, **old), "--watch_dev", "1"])
    assert (found.adapter_learning_rate, found.augmentations, found.direct_loss) == (0.1, 2, "distance")
    assert found.dev_evaluations == 1
    for alias in ("shala_exact", "shala_static"):
        assert read_config([*write(tmp_path), "--method", alias]).method == "shala"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning_rat", "1"], "--learning_rat: no such setting; did you mean learning_rate"),
        (["--method", "magic"], "method is 'magic'"),
        (["--readout", "guess"], "readout is 'guess'"),
        (["--direct-loss", "square"], "direct_loss is 'square'"),
        (["--learning_rate", "fast"], "invalid float value"),
        (["--method", "shala_unweighted", "--ambiguity", "static"], "method shala_unweighted means ambiguity off"),
        (["--ambiguity_decay", "0.9"], "--ambiguity_decay: has no part"),
        (["--method", "shala", "--target", "hard"], "method shala means target soft"),
        (["--method", "shala_static", "--ambiguity", "off"], "method shala means ambiguity static"),
        (["--method", "sft_soft", "--ambiguity", "dynamic"], "--ambiguity: has no part"),
        (["--method", "sft_soft", "--direct_loss", "distance"], "--direct_loss: has no part"),
        (["--method", "grpo_jsd", "--attribute_weight", "0.5"], "--attribute_weight: has no part"),
        (["--method", "shala", "--readout", "slots", "--top_p", "0.5"], "--top_p: has no part"),
        (["--method", "shala", "--adapter_epochs", "3"], "--adapter_epochs: has no part"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        read_config([*write(tmp_path), *flags])


def test_an_unknown_setting_of_a_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"settings.yaml: unknown settings num_epochs; did you mean"):
        read_config(write(tmp_path, num_epochs=3))
    with pytest.raises(UserError, match="output_dir: name the folder"):
        read_config(["--manifest", "m.jsonl"])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sft_hard", {"target": "hard"}),
        ("grpo_majority", {"reward": "majority", "ambiguity": "off"}),
        ("grpo_jsd", {"reward": "jsd", "ambiguity": "off"}),
        ("shala_dynamic", {"ambiguity": "dynamic"}),
    ],
)
def test_a_method_sets_what_makes_it(tmp_path, caplog, method, expected):
    options = {"reward": "brier"} if "grpo" in method or "shala" in method else {}
    found = settings(tmp_path, method=method, readout="slots", ambiguity="static", **options)
    assert {name: getattr(found, name) for name in expected} == expected
    assert ("reward is" in caplog.text) == ("reward" in expected), "what is not as the user had it is said"


def test_the_record_has_what_was_set_and_nothing_that_was_not(tmp_path):
    from shala_audio.training.provenance import settings as recorded

    given = {"per_device_train_batch_size": 4, "learning_rate": 1e-3}
    plain = DirectConfig(output_dir=str(tmp_path), bf16=False, **given)
    assert recorded(plain) == given
    drawn = GrpoConfig(output_dir=str(tmp_path), bf16=False, method="grpo_jsd", num_generations=2, **given)
    assert recorded(drawn) == {**given, "num_generations": 2, "ambiguity": "off"}


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({"ambiguity": "off", "ambiguity_lambda": 0.9}, ["ambiguity_lambda"]),
        ({"method": "shala_unweighted", "ambiguity_entropy": "dirichlet"}, ["ambiguity_entropy"]),
        ({"ambiguity": "static", "ambiguity_decay": 0.9}, ["ambiguity_decay"]),
        ({"ambiguity": "dynamic", "ambiguity_alpha": 0.9}, ["ambiguity_alpha"]),
        ({"ambiguity": "dynamic", "ambiguity_decay": 0.9}, []),
        ({"ambiguity_entropy": "dirichlet", "ambiguity_alpha": 0.9}, []),
    ],
)
def test_settings_of_weights_that_are_not_read_are_said_and_not_recorded(tmp_path, caplog, given, idle):
    from shala_audio.training.provenance import settings as recorded

    found = settings(tmp_path, **given)
    assert found.idle == idle and not set(idle) & set(recorded(found))
    assert (f"{', '.join(idle)}: no part with ambiguity" in caplog.text) == bool(idle)
    if not idle:
        assert set(given) - {"ambiguity"} <= set(recorded(found))


def test_a_limit_of_written_answers_is_on_record(tmp_path):
    """Two runs with different limits had one record, so that one was resumed from the other's checkpoint."""
    from shala_audio.training.provenance import settings as recorded

    found = settings(tmp_path, readout="verbalized", max_completion_length=12)
    found.max_completion_length = 9  # as the trainer may
    assert recorded(found)["max_completion_length"] == 12
    assert "max_completion_length" not in recorded(settings(tmp_path, readout="slots", max_completion_length=12))


def test_a_preset_is_whole(tmp_path):
    assert settings(tmp_path, method="sft_soft", target="hard", readout="slots").target == "soft"


def test_stock_grpo_stays_so_whatever_a_recipes_file_has_for_shala(tmp_path):
    (tmp_path / "slots.yaml").write_text("advantage: all_digits\ngroup_reward: 0.5\nnum_generations: 4\n")
    given = ["--config", str(tmp_path / "slots.yaml"), "--readout", "slots", "--output_dir", str(tmp_path / "out")]
    assert read_config([*given, "--method", "shala"]).advantage == "all_digits"
    for method in ("grpo_jsd", "grpo_majority"):
        config = read_config([*given, "--method", method])
        assert (config.advantage, config.group_reward) == ("group", 0.0)


def test_votes_are_drawn_in_one_way(tmp_path):
    both = [
        "--vote_dropping",
        "true",
        "--vote_resampling",
        "true",
        "--method",
        "sft_soft",
        "--output_dir",
        str(tmp_path),
    ]
    with pytest.raises(UserError, match="leave one of the two out"):
        read_config(both)
