"""`shala-audio predict --window`: an answer for each window of long sound, and a picture of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shala_audio.cli.outputs import Prediction
from shala_audio.errors import UserError


def check_picture(picture: Path, window: float | None, inputs: list[str]) -> None:
    """Raises: UserError: no picture can be made of what is asked."""
    if window is None or len(inputs) != 1 or os.path.isdir(inputs[0]):
        raise UserError("--picture: of one sound file, with --window")
    if picture.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--picture {picture}: a name that ends in .png, .svg or .pdf is needed")
    try:
        import matplotlib

        matplotlib.use("Agg")  # no window, and none is needed
    except ImportError:
        raise UserError("pictures need matplotlib: in the clone, pip install -e '.[plots]'") from None


def timelines(
    predictor: Any, names: Iterable[str], window: float, hop: float, complain: Any, picture: Path | None
) -> Iterator[Prediction]:
    from shala_audio.audio.sound import SAMPLE_RATE, read_sound
    from shala_audio.inference.windows import plot_timeline

    for name in names:
        try:
            samples = read_sound(name)
            moments = predictor.timeline((samples, SAMPLE_RATE), window, hop)
            if picture is not None:
                plot_timeline(moments, samples, picture)
            for moment in moments:
                head = {"id": name, "start": moment.start, "end": moment.end, "voiced": round(moment.voiced, 3)}
                yield head, moment.distribution
        except UserError as error:
            complain(error)
