"""Ways in which a language model states a distribution over labels; a configuration chooses one by name."""

from __future__ import annotations

from shala_audio.models.readouts.base import Readout
from shala_audio.models.readouts.label_token import LabelToken
from shala_audio.models.readouts.reasoned import Reasoned
from shala_audio.models.readouts.slots import Slots
from shala_audio.models.readouts.verbalized import Verbalized

READOUTS: dict[str, type[Readout]] = {readout.name: readout for readout in (LabelToken, Slots, Verbalized, Reasoned)}
