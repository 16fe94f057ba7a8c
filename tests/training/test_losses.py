from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import mean_squared_error

from benchmarks.exact_gradient import marginal_reward
from shala_audio.models.prompts import PromptBuilder
from shala_audio.training.losses import (
    JOINT,
    js_distance,
    js_divergence,
    ranked_probability_score,
)
from tests.tiny import label_log_probs, tiny_model

HUMAN = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])


@settings(max_examples=100)
@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_the_divergence_is_scipys(logits, votes):
    p = np.array(votes) / sum(votes) if sum(votes) else np.ones(3) / 3
    log_q = torch.tensor(logits, dtype=torch.float64).log_softmax(0)
    expected = np.nan_to_num(jensenshannon(p, log_q.exp().numpy())) ** 2  # SciPy gets NaN where both are equal
    assert js_divergence(torch.tensor(p), log_q).item() == pytest.approx(expected, abs=1e-9)


def test_gradients_are_right_and_finite_at_zeros():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    human = HUMAN.double()
    assert torch.autograd.gradcheck(lambda x: js_divergence(human, x.log_softmax(-1)), logits)
    far = torch.tensor([[80.0, 0.0, -80.0]], requires_grad=True)
    js_divergence(torch.tensor([[0.0, 0.0, 1.0]]), far.log_softmax(-1)).sum().backward()
    assert torch.isfinite(far.grad).all()


def test_the_reward_falls_where_the_model_says_too_much():
    log_q = torch.tensor([[0.2, 0.3, 0.5]]).log()
    reward = marginal_reward(torch.tensor([[0.6, 0.3, 0.1]]), log_q)[0]
    assert reward[0] > 0 and reward[1].abs() < 1e-6 and reward[2] < 0


def flat_gradient(model, loss) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_the_direct_gradient_is_the_expected_policy_gradient(tiny_lm):
    """On a tiny model: 20,000 groups of G = 4 drawn labels, advantage r - mean of the group, against (G - 1) / G times
    the exact gradient. Stated tolerance: a cosine above 0.99, at most one
    parameter in 1,000 further off than 4 standard errors, none further than 6."""
    model = tiny_model(tiny_lm)
    builder = PromptBuilder(model)
    batch = builder.batch([builder.prompt({"comment": comment}, None) for comment in ("oh no", "fine")])
    log_q = label_log_probs(model, batch)
    exact = flat_gradient(model, js_divergence(HUMAN, log_q).mean())

    group, groups = 4, 20_000
    generator = torch.Generator().manual_seed(0)
    reward = marginal_reward(HUMAN, log_q)
    # The gradient of every label's log-probability, once: a group's gradient is linear in them.
    label_gradients = torch.stack(
        [torch.stack([flat_gradient(model, log_q[row, label]) for label in range(3)]) for row in range(2)]
    )
    blocks = []
    for row in range(2):
        drawn = torch.multinomial(log_q[row].exp().detach(), group * groups, True, generator=generator)
        drawn = drawn.view(groups, group)
        earned = reward[row][drawn]
        advantage = earned - earned.mean(dim=1, keepdim=True)
        weight = torch.zeros(groups, 3).scatter_add_(1, drawn, advantage) / group
        blocks.append(-(weight @ label_gradients[row]) / 2)
    sampled = blocks[0] + blocks[1]  # (groups, parameters)
    mean, error = sampled.mean(dim=0), sampled.std(dim=0) / groups**0.5
    expected = exact * (group - 1) / group
    assert torch.nn.functional.cosine_similarity(mean, expected, dim=0) > 0.99
    off = (mean - expected).abs() / (error + 1e-8)
    assert off.max() < 6 and (off > 4).float().mean() < 0.001


@pytest.mark.parametrize("bits", [JOINT / 3, JOINT, 3 * JOINT, 0.5])
def test_the_distance_has_no_jump_in_value_or_slope(bits):
    """It compared bits with a bound that was called nats, and its slope fell by half where a line met the root."""
    log2 = float(np.log(2))
    ends = [torch.tensor(bits * log2 * (1 + side), dtype=torch.float64, requires_grad=True) for side in (-1e-6, 1e-6)]
    values = [js_distance(end) for end in ends]
    slopes = [torch.autograd.grad(value, end)[0].item() for value, end in zip(values, ends, strict=True)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4)
    if bits >= JOINT:
        assert values[1].item() == pytest.approx(bits**0.5, rel=1e-5)
    zero = torch.zeros((), requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(js_distance(zero), zero)[0])


def test_the_ranked_probability_score_is_a_sum_of_brier_scores():
    """Of each threshold between two labels in their order (Epstein 1969), by scikit-learn; and its gradient is right."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 8), rng.dirichlet(np.ones(5), 8)
    found = ranked_probability_score(torch.tensor(p), torch.tensor(q).log())
    expected = [mean_squared_error(one.cumsum()[:-1], other.cumsum()[:-1]) for one, other in zip(p, q, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    logits = torch.tensor(rng.normal(size=(3, 5)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ranked_probability_score(torch.tensor(p[:3]), x.log_softmax(-1)), logits)
