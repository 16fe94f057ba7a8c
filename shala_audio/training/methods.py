"""The methods that `--method` chooses: SHALA, its parts, and what it is compared with, on one code path.

Every trained method starts from a base model. The reinforced ones go on from a warm start; `sft_soft` and `sft_hard` spend
the same passes on supervised learning instead, so that all have the same budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAMPLED = ("slots", "verbalized")
ANY = ("label_token", *SAMPLED)


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


SOFT = {"target": "soft"}
ALIKE = {**SOFT, "ambiguity": "off", "ambiguity_sampling": False}

METHODS: dict[str, Method] = {
    "zero_shot": Method("the base model as it is", "none"),
    "few_shot": Method("the base model with a few answered training rows in its prompt (text only)", "none"),
    "warm_start": Method("a short supervised stage on human distributions", "supervised", settings=SOFT),
    "sft_hard": Method("supervised learning of the plurality label", "supervised", settings={"target": "hard"}),
    "sft_soft": Method("supervised learning of human distributions", "supervised", settings=SOFT),
    "grpo_majority": Method(
        "GRPO, rewarded for the plurality label", "reinforced", SAMPLED, {**ALIKE, "reward": "majority"}
    ),
    "grpo_jsd": Method("GRPO, rewarded by 1 - jsd, all rows alike", "reinforced", SAMPLED, {**ALIKE, "reward": "jsd"}),
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
