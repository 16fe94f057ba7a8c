"""The training items that a model takes an input to be most like, with what people said of them.

Beside a model lies `neighbours.safetensors`: where each item lies, and in its metadata the items' ids, votes and texts. An
item's place is the language model's last state before it answers, on the principal axes of the training items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from shala_audio.audio.features import FeatureStore
from shala_audio.audio.io import SAMPLE_RATE
from shala_audio.distribution import Floats, entropy
from shala_audio.errors import UserError
from shala_audio.inference.predictor import Predictor, sound_of
from shala_audio.io import atomic_write
from shala_audio.manifest import Row

FILE = "neighbours.safetensors"
AXES = 32  # of the states' hundreds: enough to tell neighbours, and small beside the model
MOST_ITEMS = 5000  # of a larger corpus, so many are drawn


@dataclass(frozen=True)
class Neighbour:
    """A training item: its id, how many raters chose each label, its text if it has any, and its likeness, -1 to 1."""

    id: str
    votes: Mapping[str, float]
    text: Mapping[str, str]
    likeness: float


class Neighbours:
    """Training items and where they lie.

    Args:
        items: N of them, each with `id`, `votes` and `text`.
        mean: (D,) of the items' states.
        axes: (D, A) the principal axes.
        places: (N, A) unit vectors.
    """

    def __init__(self, items: Sequence[Mapping[str, Any]], mean: Floats, axes: Floats, places: Floats) -> None:
        self.items, self.mean, self.axes, self.places = items, mean, axes, places

    @classmethod
    def fit(cls, rows: Sequence[Row], states: Floats) -> Neighbours:
        """From N rows and their states (N, D)."""
        mean = states.mean(axis=0)
        centred = states - mean
        _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
        axes = vectors[:, ::-1][:, :AXES]
        items = [{"id": row.id, "votes": dict(row.votes), "text": dict(row.text)} for row in rows]
        return cls(items, mean, axes, _unit(centred @ axes))

    def nearest(self, state: Floats, count: int = 3) -> list[Neighbour]:
        """The items whose states are most like a state (D,), by the cosine on the axes; the most like first."""
        likeness = self.places @ _unit((state - self.mean) @ self.axes)
        chosen = np.argsort(-likeness, kind="stable")[:count]
        return [
            Neighbour(item["id"], item["votes"], item["text"], float(np.clip(likeness[index], -1, 1)))
            for index, item in ((index, self.items[index]) for index in chosen)
        ]

    def entropies(self) -> Floats:
        """(N,) entropy in bits of what people said of each item, ascending."""
        return np.sort([float(entropy(_shares(item["votes"]))) for item in self.items])

    def save(self, folder: Path) -> None:
        """Write the file into a model's folder."""
        arrays = {"mean": self.mean, "axes": self.axes, "places": self.places}
        halves = {name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}
        with atomic_write(folder / FILE) as beside:
            save_file(halves, beside, metadata={"items": json.dumps(self.items, ensure_ascii=False)})

    @classmethod
    def load(cls, folder: Path) -> Neighbours | None:
        """What `save` wrote into a model's folder; None where there is nothing.

        Raises:
            UserError: the file is none of ours.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                items = json.loads(file.metadata()["items"])
                mean, axes, places = (file.get_tensor(name).astype(np.float64) for name in ("mean", "axes", "places"))
            shapes = (mean.shape[0], places.shape[1]) == axes.shape and len(places) == len(items)
            whole = all(
                isinstance(item["id"], str) and sum(item["votes"].values()) > 0 and isinstance(item["text"], dict)
                for item in items
            )
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run `shala-audio models neighbours` again") from None
        if not shapes or not whole:
            raise UserError(
                f"{path}: its items and places do not belong together; run `shala-audio models neighbours` again"
            )
        return cls(items, mean, axes, places)


def find_neighbours(
    predictor: Predictor, rows: Sequence[Row], features: FeatureStore | None, audio_root: Path | None, seed: int = 0
) -> Neighbours:
    """Run a model over training rows and keep where each lies.

    Args:
        predictor: the model.
        rows: with votes; of more than 5,000, so many are drawn.
        features, audio_root: of their sound; one of them where the task has sound.
        seed: of the draw.

    Raises:
        UserError: there are fewer than two rows with votes, or their sound cannot be read.
    """
    rows = [row for row in rows if sum(row.votes.values()) > 0]
    if len(rows) < 2:
        raise UserError("fewer than two training rows with votes: no neighbours to find")
    if predictor.task.has_audio and features is None and audio_root is None:
        raise UserError("the rows have sound: name the audio root, or the folder of features")
    if len(rows) > MOST_ITEMS:
        rows = [rows[index] for index in sorted(np.random.default_rng(seed).permutation(len(rows))[:MOST_ITEMS])]
    found = list(_row_states(predictor, rows, features, audio_root))
    return Neighbours.fit([row for row, _ in found], np.stack([state for _, state in found]))


def _row_states(
    predictor: Predictor, rows: Sequence[Row], features: FeatureStore | None, audio_root: Path | None
) -> Iterator[tuple[Row, Floats]]:
    with tqdm(total=len(rows), unit="row", desc="neighbours", disable=None) as bar:
        for batch in predictor.batches(rows, features):
            states = None
            if predictor.task.has_audio and features is not None:
                states = [features[row.id] for row in batch]
            elif predictor.task.has_audio:
                assert audio_root is not None
                clips = [sound_of(row, audio_root)[0] for row in batch]
                longest = predictor.encoder.longest
                for row, clip in zip(batch, clips, strict=True):
                    if len(clip) > longest * SAMPLE_RATE:  # nor has training seen it
                        raise UserError(
                            f"row {row.id}: lasts more than {longest:.0f} s, which are encoded at once; leave it out"
                        )
                states = predictor.encode(clips)
            inputs = predictor.inputs(states, [row.text for row in batch])
            yield from zip(batch, predictor.states(inputs), strict=True)
            bar.update(len(batch))


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _shares(votes: Mapping[str, float]) -> Floats:
    counts = np.array(list(votes.values()), dtype=np.float64)
    return counts / counts.sum()
