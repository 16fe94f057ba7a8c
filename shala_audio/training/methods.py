"""The methods that `--method` chooses: SHALA, its parts, and what it is compared with, on one code path.

Every trained method starts from a base model. The reinforced ones go on from a warm start; `sft_soft` and `sft_hard` spend
the same passes on supervised learning instead, so that all have the same budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANY = ("label_token", "slots", "verbalized")


@dataclass(frozen=True)
class Method:
    """How a method learns.

    Attributes:
        what: one line for a person.
        loss: "none", "supervised" or "reinforced".
        readouts: those it can be used with.
        settings: what it sets, over the configuration file.
    """

    what: str
    loss: str
    readouts: tuple[str, ...] = ANY
    settings: Mapping[str, Any] = field(default_factory=dict)


# Settings that have a part in nothing but sampled answers, the exact objective, or the weights of either.
OF_SAMPLES = frozenset(
    {
        "reward", "invalid_reward", "scale_rewards", "loss_type", "num_iterations", "temperature", "epsilon", "epsilon_high",
        "delta", "importance_sampling_level", "reward_weights", "multi_objective_aggregation", "top_entropy_quantile",
        "entropy_coef", "use_adaptive_entropy", "off_policy_mask_threshold", "mask_truncated_completions",
    }
)  # fmt: skip
OF_DRAWN_LABELS = frozenset({"reward", "scale_rewards"})
OF_FREE_TEXT = frozenset({"top_p", "top_k", "min_p", "repetition_penalty"})
OF_THE_EXACT = frozenset({"exact_loss"})
OF_WEIGHTS = frozenset(
    {
        "ambiguity", "ambiguity_lambda", "ambiguity_lambda_end", "ambiguity_entropy", "ambiguity_alpha",
        "ambiguity_memory", "ambiguity_sampling",
    }
)  # fmt: skip

SOFT = {"target": "soft"}
ALIKE = {**SOFT, "ambiguity": "off", "ambiguity_sampling": False}
GRPO = {**ALIKE, "exact_loss": "off"}  # with label_token, labels are drawn and rewarded

METHODS: dict[str, Method] = {
    "zero_shot": Method("the base model as it is", "none"),
    "few_shot": Method("the base model with a few answered training rows in its prompt (text only)", "none"),
    "warm_start": Method("a short supervised stage on human distributions", "supervised", settings=SOFT),
    "sft_hard": Method("supervised learning of the plurality label", "supervised", settings={"target": "hard"}),
    "sft_soft": Method("supervised learning of human distributions", "supervised", settings=SOFT),
    "grpo_majority": Method(
        "GRPO, rewarded for the plurality label", "reinforced", settings={**GRPO, "reward": "majority"}
    ),
    "grpo_jsd": Method("GRPO, rewarded by 1 - jsd, all rows alike", "reinforced", settings={**GRPO, "reward": "jsd"}),
    "shala": Method("SHALA as the configuration says", "reinforced", settings=SOFT),
    "shala_unweighted": Method("SHALA without ambiguity weights", "reinforced", settings=ALIKE),
    "shala_static": Method(
        "SHALA, ambiguous rows count for more", "reinforced", settings={**SOFT, "ambiguity": "static"}
    ),
    "shala_dynamic": Method(
        "SHALA, ambiguous rows that are not learnt yet count for more",
        "reinforced",
        settings={**SOFT, "ambiguity": "dynamic"},
    ),
    "shala_exact": Method("SHALA by the exact objective, without rollouts", "reinforced", ("label_token",), SOFT),
}


def without_part(method: str, readout: str, exact_loss: str) -> frozenset[str]:
    """Names of settings that a method does not read, with this readout and this exact loss.

    >>> ["reward" in without_part("shala", "label_token", loss) for loss in ("divergence", "off")]
    [True, False]
    """
    if METHODS[method].loss != "reinforced":
        return OF_SAMPLES | OF_FREE_TEXT | OF_THE_EXACT | OF_WEIGHTS
    return {
        "label_token": (OF_SAMPLES - OF_DRAWN_LABELS if exact_loss == "off" else OF_SAMPLES) | OF_FREE_TEXT,
        "slots": OF_FREE_TEXT | OF_THE_EXACT | {"invalid_reward"},  # every answer in slots can be read
        "verbalized": OF_THE_EXACT,
    }[readout]


def idle_weights(ambiguity: str, entropy: str) -> frozenset[str]:
    """Names of settings that weights of this kind, with this estimator of entropy, do not read.

    >>> sorted(idle_weights("static", "dirichlet"))
    ['ambiguity_memory']
    """
    if ambiguity == "off":
        return OF_WEIGHTS - {"ambiguity", "ambiguity_sampling"}
    memory = {"ambiguity_memory"} if ambiguity == "static" else set()
    return frozenset(memory if entropy == "dirichlet" else memory | {"ambiguity_alpha"})
