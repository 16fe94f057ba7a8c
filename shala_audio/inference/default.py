"""The model that comes with the toolkit: one for sound, one for text, trained by the recipes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from shala_audio.audio.clips import Clip
from shala_audio.distribution import LabelDistribution, LabelRates
from shala_audio.inference.predictor import LOADING, Predictor, Text, as_pair
from shala_audio.inference.windows import Moment
from shala_audio.manifest import Row

Predictions = list[tuple[str, LabelDistribution]]
FOLDER = Path(__file__).parents[1] / "assets" / "default"


def part(sound: bool) -> Path:
    """The folder of the part for sound, or for text."""
    return FOLDER / ("sound" if sound else "text")


class DefaultModel(Predictor):
    """Six emotions for sound (CREMA-D's), GoEmotions' 28 labels for text; `assets/default/README.md` says how good it is.

    Each part is loaded when it is first asked.

    Args:
        options: passed on to `Predictor.from_pretrained` (`device`, `batch_size`).
    """

    def __init__(self, **options: Any) -> None:
        self.options, self.folder, self.unparsed = options, None, 0  # its parts are loaded when they are needed

    def __getattr__(self, name: str) -> Any:
        """What only one of the parts has."""
        raise AttributeError(f"{name}: the default model has two parts, each with its own; ask .sound or .text")

    @property
    def sound(self) -> Predictor:
        with LOADING:
            return self._sound

    @property
    def text(self) -> Predictor:
        with LOADING:
            return self._text

    @cached_property
    def _sound(self) -> Predictor:
        return Predictor.from_pretrained(part(sound=True), **self.options)

    @cached_property
    def _text(self) -> Predictor:
        return Predictor.from_pretrained(part(sound=False), **self.options)

    def predict_batches(self, rows: Iterable[Row], *arguments: Any, **options: Any) -> Iterator[Predictions]:
        """As `Predictor.predict_batches`; of rows with and without sound in one manifest, those with sound come first."""
        rows = list(rows)
        for predictor, has_sound in (("sound", True), ("text", False)):
            if members := [row for row in rows if (row.audio is not None) == has_sound]:
                yield from getattr(self, predictor).predict_batches(members, *arguments, **options)

    def predict_batch(
        self, inputs: Iterable[Any] = (), channel: int | None = None, texts: Iterable[Any] = ()
    ) -> list[LabelDistribution]:
        """As `Predictor.predict_batch`; clips and texts may stand side by side."""
        pairs = [*(as_pair(item) for item in inputs), *((None, text) for text in texts)]
        found: dict[int, LabelDistribution] = {}
        for predictor, has_sound in (("sound", True), ("text", False)):
            chosen = [index for index, (clip, _) in enumerate(pairs) if (clip is not None) == has_sound]
            if chosen:
                answers = getattr(self, predictor).predict_batch([pairs[index] for index in chosen], channel)
                found |= dict(zip(chosen, answers, strict=True))
        return [found[index] for index in range(len(pairs))]

    def predict_rates(self, texts: Iterable[Text]) -> list[LabelRates]:
        """As `Predictor.predict_rates`: of texts, whose part says what it can answer."""
        return self.text.predict_rates(texts)

    def timeline(self, clip: Clip, window: float = 4.0, hop: float = 2.0, channel: int | None = None) -> list[Moment]:
        """As `Predictor.timeline`."""
        return self.sound.timeline(clip, window, hop, channel)
