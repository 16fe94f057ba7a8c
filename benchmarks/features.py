"""Encode 2 to 4 s clips: our encoder in batches against the stock encoder, one clip at a time, padded to 30 s."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch

from shala_audio.audio.encoders import load_encoder
from shala_audio.models.sources import locate

CLIPS, ROUNDS = 16, 3


def main() -> None:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(int(16_000 * seconds)).astype(np.float32) for seconds in rng.uniform(2, 4, CLIPS)]
    source = locate("whisper-base", print)
    encoder = load_encoder(source, [6])
    stock = WhisperEncoder.from_pretrained(source).eval()

    def padded() -> None:
        for clip in clips:
            mel = encoder.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
            with torch.inference_mode():
                stock(mel)

    ratios = []
    for number in range(ROUNDS + 1):
        times = []
        for work in (lambda: encoder.encode(clips), padded):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        if number:  # the first round warms up
            ratios.append(times[1] / times[0])
            print(f"ours {CLIPS / times[0]:.1f} clips/s, padded to 30 s {CLIPS / times[1]:.1f} clips/s")
    print(f"ratio {median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
