from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.spatial.distance import euclidean, jensenshannon
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from shala_audio.errors import UserError
from shala_audio.training import brier_reward, jsd_reward, log_reward, majority_reward
from shala_audio.training.rewards import REWARDS, earned, every_digit


def test_reward_is_one_minus_scipys_distance():
    reward = jsd_reward(["a", "b", "c"])
    human = [[0.6, 0.4, 0.0]] * 3
    answers = ['{"a": 20, "b": 30, "c": 50}', "I cannot say", '{"a": 60, "b": 40}']
    expected = 1 - jensenshannon([0.6, 0.4, 0.0], [0.2, 0.3, 0.5], base=2)
    assert reward(completions=answers, human=human) == pytest.approx([expected, 0.0, 1.0])


@pytest.mark.parametrize("maker", [jsd_reward, brier_reward, log_reward, majority_reward])
def test_the_reward_runs_in_stock_trl(tiny_lm, tmp_path, maker):
    """As any user of TRL would use it, without our trainer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    people = [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [1.0, 0.0]]
    rows = Dataset.from_list(
        [{"prompt": f"{index}: how do people feel?", "human": human} for index, human in enumerate(people)]
    )
    settings = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_completion_length=16, max_steps=1,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm, padding_side="left")
    asked: list[str] = []

    def answer(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """Every other rollout is valid: an untrained model of a few tokens would never write one."""
        asked.extend(prompts)
        texts = ['{"a": 30, "b": 70}' if index % 2 else "who knows" for index in range(len(prompts))]
        completions = [tokenizer(text)["input_ids"] for text in texts]
        return {"prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts], "completion_ids": completions,
                "logprobs": [[0.0] * len(tokens) for tokens in completions]}  # fmt: skip

    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_lm), [maker(["a", "b"])], settings, rows,
        processing_class=tokenizer, rollout_func=answer,
    )  # fmt: skip
    trainer.train()
    stated = np.array([0.3, 0.7])
    expected = {
        "jsd_to_raters": lambda p: 1 - jensenshannon(p, stated, base=2),
        "brier_to_raters": lambda p: 1 - euclidean(p, stated) ** 2 / 2,
        "log_to_raters": lambda p: 1 - (p @ -np.log(stated)) / -np.log(0.01),
        "majority_to_raters": lambda p: accuracy_score([p.argmax()], [1]) if p[0] != p[1] else 1.0,
    }[maker(["a", "b"]).__name__]
    earned = [expected(np.array(people[int(prompt[0])])) * (index % 2) for index, prompt in enumerate(asked)]
    assert len(asked) == 4 and trainer.state.log_history[0]["reward"] == pytest.approx(np.mean(earned), abs=1e-6)


MAKERS = (jsd_reward, brier_reward, log_reward, majority_reward)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_perfect_answer_earns_one_and_an_invalid_one_what_the_policy_says(maker):
    human = [[0.25, 0.75, 0.0]] * 3
    answers = ['{"a": 25, "b": 75}', "no", '{"c": 100}']
    assert maker(["a", "b", "c"])(completions=answers, human=human) == pytest.approx([1, 0, 0], abs=0.4)
    most = 1 if maker is not log_reward else 1 - np.log([0.25, 0.75]) @ [0.25, 0.75] / np.log(0.01)  # of any answer
    assert maker(["a", "b", "c"])(completions=answers, human=human)[0] == pytest.approx(most)
    assert maker(["a", "b", "c"], invalid=-0.5)(completions=["no"], human=human[:1]) == [-0.5]


def test_brier_against_scikit_learn():
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.3, 0.5])
    answer, human = ['{"a": 20, "b": 30, "c": 50}'], [p.tolist()]
    labels = ["a", "b", "c"]
    assert brier_reward(labels)(completions=answer, human=human)[0] == pytest.approx(
        1 - 3 * mean_squared_error(p, q) / 2
    )


def test_the_logarithmic_score_against_scikit_learn():
    people, stated = [[0, 1, 0]], np.array([[0.2, 0.3, 0.5]])
    answer = ['{"a": 20, "b": 30, "c": 50}']
    expected = 1 - log_loss(people, stated) / -np.log(0.01)
    assert log_reward(["a", "b", "c"])(completions=answer, human=people) == pytest.approx([expected])


@pytest.mark.parametrize("name", ["brier", "log"])
def test_proper_scores_earn_most_for_the_raters_own_distribution(name):
    rng = np.random.default_rng(0)
    human = np.maximum(rng.dirichlet([1, 1, 1], size=200), 0.01)
    human /= human.sum(axis=1, keepdims=True)
    other = rng.dirichlet([1, 1, 1], size=200)
    assert (REWARDS[name](human, human) >= REWARDS[name](human, other)).all()


def test_the_majority_reward_does_not_care_for_the_rest():
    reward = majority_reward(["a", "b", "c"])
    people = [[0.4, 0.4, 0.2]] * 4
    answers = ['{"a": 34, "b": 33, "c": 33}', '{"b": 100}', '{"c": 100}', '{"a": 40, "b": 20, "c": 40}']
    assert reward(completions=answers, human=people) == [1.0, 1.0, 0.0, 0.5]


def test_chat_completions_are_read():
    """For prompts in chat form TRL passes messages."""
    completion = [{"role": "assistant", "content": '{"a": 100, "b": 0}'}]
    assert jsd_reward(["a", "b"])(completions=[completion], human=[[1.0, 0.0]]) == [1.0]


@pytest.mark.parametrize("maker", MAKERS)
def test_votes_are_as_good_as_their_distribution(maker):
    reward, answers = maker(["a", "b", "c"]), ['{"a": 60, "b": 20, "c": 20}', '{"c": 100}']
    assert reward(completions=answers, human=[[6, 2, 1]] * 2) == pytest.approx(
        reward(completions=answers, human=[[6 / 9, 2 / 9, 1 / 9]] * 2)
    )


@pytest.mark.parametrize("people", [[0, 0, 0], [1, 2], [2, -1, 0], [float("nan"), 1, 1], [[1, 0, 0]]])
def test_what_is_no_distribution_is_refused(people):
    with pytest.raises(UserError, match="over the 3 labels"):
        jsd_reward(["a", "b", "c"])(completions=['{"a": 100}'], human=[people])
    with pytest.raises(UserError, match="over the 3 labels"):
        jsd_reward(["a", "b", "c"])(completions=["no answer"], human=[people])


@pytest.mark.parametrize("name", REWARDS)
def test_arrays_earn_what_the_same_answers_in_json_do(name):
    """Of each of many answers in turn, to the per cent; and an answer that states nothing earns what is set for it."""
    maker = dict(zip(("jsd", "brier", "log", "majority"), MAKERS, strict=True))[name]
    rng = np.random.default_rng(0)
    percent, human = rng.multinomial(100, [0.2, 0.3, 0.5], size=50), rng.dirichlet([1, 1, 1], size=50)
    texts = [json.dumps(dict(zip("abc", map(int, row), strict=True))) for row in percent]
    expected = maker(["a", "b", "c"])(completions=texts, human=human.tolist())
    stated = percent / 100
    np.testing.assert_allclose(earned(name, human, stated, 0.0), expected, atol=1e-12)
    stated[3] = np.nan
    assert earned(name, human, stated, -0.5)[3] == -0.5


@pytest.mark.parametrize("shared", [0.0, 0.4])
def test_every_digit_is_rewarded_as_the_answer_that_has_it(shared):
    """Against answers written out one by one."""
    rng = np.random.default_rng(0)
    labels, group = 3, 2
    human = rng.dirichlet(np.ones(labels), 2).repeat(group, axis=0)
    digits = rng.integers(0, 10, (4, labels, 2))
    found = every_digit("jsd", human, digits, group, shared)
    assert found.shape == (4, 2 * labels, 10)

    def stated(one):
        percent = one @ [10, 1]
        return percent / percent.sum() if percent.sum() else np.full(labels, 1 / labels)

    for answer in range(4):
        first = answer - answer % group
        for place in range(2 * labels):
            for digit in range(10):
                other = digits[answer].copy()
                other[place // 2, place % 2] = digit
                expected = 1 - jensenshannon(human[answer], stated(other), base=2)
                if shared:
                    members = [other if at == answer else digits[at] for at in range(first, first + group)]
                    mean = np.mean([stated(member) for member in members], axis=0)
                    expected = (1 - shared) * expected + shared * group * (
                        1 - jensenshannon(human[answer], mean, base=2)
                    )
                assert found[answer, place, digit] == pytest.approx(expected, abs=1e-6)
