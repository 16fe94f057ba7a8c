"""Attributes such as arousal, read from the state that the label words follow."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shala_audio.tasks import Task


class AttributeHead(nn.Linear):
    """States of width D to a task's A attributes, each on its scale.

    Args:
        width: D.
        task: whose attributes.
    """

    def __init__(self, width: int, task: Task) -> None:
        super().__init__(width, len(task.attributes))
        self.scales = [(attribute.low, attribute.high) for attribute in task.attributes]

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, A) in float32, of (B, D)."""
        low, high = hidden.new_tensor(self.scales, dtype=torch.float32).T
        with torch.autocast(hidden.device.type, enabled=False):
            # The weights may be in bfloat16, where the machine's settings say so.
            return low + (high - low) * F.linear(hidden.float(), self.weight.float(), self.bias.float()).sigmoid()
