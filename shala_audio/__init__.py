"""Language models, for speech and text, that answer with the distribution of human judgement.

    import shala_audio
    model = shala_audio.load("exp/crema_d/shala")
    d = model.predict("clip.wav")
    d["anger"], d.top, d.entropy

Shape letters used in every docstring: B batch, G rollouts, S encoder layers, T frames, L tokens, D width, K labels,
N raters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shala_audio.distribution import LabelDistribution
from shala_audio.torchaudio_fix import allow_cpu_torchaudio

if TYPE_CHECKING:
    from shala_audio.inference.predictor import Predictor

__all__ = ["LabelDistribution", "__version__", "example", "load", "register"]

allow_cpu_torchaudio()  # before anything imports peft, trl or torchaudio


def __getattr__(name: str) -> str:
    """`__version__`, asked only when it is wanted: that of the last installation, which in a clone may be an earlier commit's."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shala-audio")
    except PackageNotFoundError:  # run from its folder
        return "not installed"


def load(model: str = "default", **options: Any) -> Predictor:
    """Load a trained model for prediction.

    Args:
        model: folder of a trained model, as `shala-audio train` writes it, or of a recipe's experiment; or "user/name" on the
            Hugging Face hub; "default" is the model that comes with the toolkit, for sound and for text. "default-1.5b-nli" comes
            with it, too (does a premise entail a hypothesis?); its base is fetched at first use, 1.1 GB.
        options: passed on to `Predictor.from_pretrained` (`device`, `batch_size`, `calibration`, `revision`).

    Raises:
        UserError: the folder is missing or is not a model.
    """
    # torch loads only when a model is wanted
    from shala_audio.inference.default import DefaultModel
    from shala_audio.inference.predictor import Predictor

    if model == "default":
        return DefaultModel(**options)
    return Predictor.from_pretrained(model, **options)


def example(name: str = "clear") -> str:
    """Path of a clip that comes with the toolkit: "clear", about which ten of ten listeners agreed (anger), or "contested" (4 heard
    sad, 3 disgust, 3 neutral). From CREMA-D, of speakers whom the default model has not learnt from; ODbL 1.0.

    >>> example("contested").endswith("contested.ogg")
    True

    Raises:
        UserError: there is no such clip.
    """
    from pathlib import Path

    from shala_audio.errors import not_one_of

    folder = Path(__file__).parent / "assets" / "clips"
    if name not in ("clear", "contested"):
        raise not_one_of("example", name, ("clear", "contested"))
    return str(folder / f"{name}.ogg")


def register() -> None:
    """Make transformers' Auto classes, and so `transformers.pipeline`, know our models."""
    from shala_audio.inference.pipelines import register as register_classes

    register_classes()
