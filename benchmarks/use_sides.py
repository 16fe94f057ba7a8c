"""Sides of prediction, of features and of scoring."""

from __future__ import annotations

import tempfile

import numpy as np
import torch

from benchmarks.training_sides import NEW_TOKENS, chaosnli_rows, direct_step_flops, other_prompts
from benchmarks.turns import DEVICE, DTYPE, Turns
from shala_audio.distribution import Floats
from shala_audio.models.config import load_model_config
from shala_audio.models.pretrained import locate, prepare_tokenizer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import load_task

PREDICTED, BATCH, CLIPS, SCORED, DRAWS, DRAWS_OF_RIVAL = 48, 16, 16, 100_000, 1_000, 10


def predict(turns: Turns) -> None:
    """Our `Predictor`, `label_token`."""
    from shala_audio.inference.predictor import Predictor

    torch.manual_seed(0)
    rows = chaosnli_rows(PREDICTED)
    with tempfile.TemporaryDirectory() as folder:
        SpeechLM.build(load_model_config("text"), load_task("chaosnli"), "label_token").save_pretrained(folder)
        predictor = Predictor.from_pretrained(folder, dtype=DTYPE, batch_size=BATCH)
    rows.sort(key=lambda row: predictor._row_length(row, None))
    prompts = [predictor.builder.prompt(row.text, None) for row in rows]
    batches = [prompts[at : at + BATCH] for at in range(0, PREDICTED, BATCH)]
    flops = sum(direct_step_flops(predictor.model, batch) for batch in batches) / 2  # forward alone
    while turns.wait():
        assert len(list(predictor.predict_rows(rows))) == PREDICTED
        turns.done(PREDICTED, flops_per_unit=flops / PREDICTED)


def generate(turns: Turns) -> None:
    """transformers' `generate` of the JSON, greedy, in batches of rows of mixed lengths."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = locate(load_model_config("text").lm)
    tokenizer = AutoTokenizer.from_pretrained(source)
    prepare_tokenizer(tokenizer)
    prompts = other_prompts(tokenizer, chaosnli_rows(PREDICTED))
    model = AutoModelForCausalLM.from_pretrained(source, dtype=DTYPE).eval().to(DEVICE)
    while turns.wait():
        for at in range(0, PREDICTED, BATCH):
            batch = tokenizer(prompts[at : at + BATCH], return_tensors="pt", padding=True, add_special_tokens=False)
            batch = batch.to(DEVICE)
            model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        turns.done(PREDICTED)


def _clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(int(16_000 * seconds)).astype(np.float32) for seconds in rng.uniform(2, 4, CLIPS)]


def encode(turns: Turns) -> None:
    """Our encoder, clips in batches, none padded to 30 s."""
    from shala_audio.audio.encoders import load_encoder

    clips = _clips()
    encoder = load_encoder(locate("whisper-base", print), [6], DEVICE)
    while turns.wait():
        encoder.encode(clips)
        turns.done(CLIPS)


def encode_padded(turns: Turns) -> None:
    """The stock encoder, one clip at a time, padded to 30 s."""
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    clips, source = _clips(), locate("whisper-base", print)
    extractor = WhisperFeatureExtractor.from_pretrained(source)
    encoder = WhisperEncoder.from_pretrained(source).eval().to(DEVICE)
    while turns.wait():
        for clip in clips:
            mel = extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
            with torch.inference_mode():
                encoder(mel.to(DEVICE)).last_hidden_state.cpu()
        turns.done(CLIPS)


def _distributions() -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(8, 0.5), size=SCORED)
    return rng.multinomial(9, truth) / 9, rng.dirichlet(np.ones(8), size=SCORED)


def measure(turns: Turns) -> None:
    """All our measures, each with its interval by 1,000 draws."""
    from shala_audio.evaluation.metrics import all_measures

    human, predicted = _distributions()
    while turns.wait():
        all_measures(human, predicted)
        turns.done(SCORED)


def measure_in_a_loop(turns: Turns) -> None:
    """The same measures: SciPy's distance row by row, then draws of rows, each with SciPy's and scikit-learn's statistics.

    The draws take all the same time, so 10 are measured and 1,000 reckoned.
    """
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import entropy, spearmanr
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

    human, predicted = _distributions()
    rng = np.random.default_rng(0)

    def draw(rows: np.ndarray) -> None:
        for values in row_values:
            values[rows].mean()
        kept = rows[clear[rows]]
        for part in (kept, *(kept[third[kept] == number] for number in range(3))):
            accuracy_score(first[part], ours[part])
        for number in range(3):
            row_values[0][rows[third[rows] == number]].mean()
        for average in ("macro", "weighted"):
            f1_score(first[kept], ours[kept], average=average)
        balanced_accuracy_score(first[kept], ours[kept])
        roc_auc_score(contested[rows], stated[rows])
        spearmanr(actual[rows], stated[rows])

    while turns.wait():
        floored = np.maximum(predicted, 1e-6)
        row_values = [
            np.array([jensenshannon(p, q, base=2) for p, q in zip(human, predicted, strict=True)]),
            entropy(human, floored, axis=1),
            np.abs(human - predicted).sum(axis=1) / 2,
            np.sqrt(human * predicted).sum(axis=1),
        ]
        actual, stated = entropy(human, base=2, axis=1), entropy(predicted, base=2, axis=1)
        third = np.digitize(actual, np.quantile(actual, [1 / 3, 2 / 3]), right=True)
        first, ours = human.argmax(axis=1), predicted.argmax(axis=1)
        clear = (human >= human.max(axis=1, keepdims=True) - 1e-9).sum(axis=1) == 1
        contested = human.max(axis=1) <= 0.5
        looped = turns.elapsed()
        for _ in range(DRAWS_OF_RIVAL):
            draw(rng.integers(0, SCORED, SCORED))
        drawn = turns.elapsed() - looped
        seconds = looped + drawn * DRAWS / DRAWS_OF_RIVAL
        turns.done(SCORED, seconds=seconds, loop_seconds=looped, draw_seconds=drawn / DRAWS_OF_RIVAL)
