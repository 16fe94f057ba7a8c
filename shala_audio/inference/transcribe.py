"""Words from the sound itself: Whisper's decoder, greedily, with the language told or recognised (arXiv 2212.04356)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shala_audio.audio.features import sound_keys
from shala_audio.audio.io import SAMPLE_RATE, Samples, read_row_audio
from shala_audio.devices import default_device
from shala_audio.errors import UserError, first_line
from shala_audio.io import append_lines
from shala_audio.manifest import Row
from shala_audio.models.pretrained import WHISPER_ASR, locate

WINDOW = 30.0  # seconds that Whisper reads at once; longer sound is cut
MOST_TOKENS = 200  # of a window
BATCH = 8  # clips, or windows, at once
# Nothing is written down above this probability of no speech, where the words' mean log-probability is below the other: as
# Whisper's own programs have it.
SILENT, UNSURE = 0.6, -1.0


@dataclass(frozen=True)
class Transcript:
    """What was heard: words, the language (en, de ...), and the probability that there was no speech, 0 to 1."""

    text: str
    language: str
    no_speech: float


class Transcriber:
    """Whisper of any size.

    Args:
        source: a default model's name, a folder or a hub id.
        device: where to compute; the accelerator where there is one.
        language: such as "en"; recognised in each clip where None.

    Raises:
        UserError: it cannot be loaded, or does not know the language.
    """

    def __init__(self, source: str = WHISPER_ASR.name, device: str | None = None, language: str | None = None) -> None:
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        where = locate(source)
        try:
            self.model = WhisperForConditionalGeneration.from_pretrained(
                where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
            )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            self.extractor: Any = WhisperFeatureExtractor.from_pretrained(where)
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            raise UserError(f"{source}: cannot be loaded as a Whisper model ({first_line(error)})") from None
        self.device = device or default_device()
        self.model.eval().to(self.device)
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        try:
            self.start, self.end, self.task, self.no_times = (
                vocabulary[f"<|{name}|>"] for name in ("startoftranscript", "endoftext", "transcribe", "notimestamps")
            )
            self.nothing = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
            between = range(self.start + 1, vocabulary["<|translate|>"])
        except KeyError as error:
            raise UserError(f"{source}: has no token {error}; a multilingual Whisper is needed") from None
        names = {number: token for token, number in vocabulary.items()}
        self.languages = {names[number].strip("<|>"): number for number in between}
        if language is not None and language not in self.languages:
            raise UserError(f"--language {language}: not one that {source} knows; use {', '.join(self.languages)}")
        self.language = language

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Samples]) -> list[Transcript]:
        """Words of clips, each cut into windows of 30 s.

        Args:
            clips: mono float32 at 16 kHz.
        """
        size = int(WINDOW * SAMPLE_RATE)
        parts = [(index, clip[at : at + size]) for index, clip in enumerate(clips) for at in range(0, len(clip), size)]
        heard: list[Transcript] = []
        for at in range(0, len(parts), BATCH):  # so that hours of sound need no more memory than minutes
            heard += self._windows([part for _, part in parts[at : at + BATCH]])
        mine: list[list[Transcript]] = [[] for _ in clips]
        for (index, _), found in zip(parts, heard, strict=True):
            mine[index].append(found)
        return [
            Transcript(
                " ".join(part.text for part in found if part.text),
                found[0].language,
                float(np.mean([part.no_speech for part in found])),
            )
            for found in mine
        ]

    def _windows(self, clips: Sequence[Samples]) -> list[Transcript]:
        mel = self.extractor(
            [clip.astype(np.float32) for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt"
        )
        states = self.model.model.encoder(mel["input_features"].to(self.device)).last_hidden_state
        first = torch.full((len(clips), 1), self.start, device=self.device)
        probs = self._next(first, states, None)[0].softmax(dim=-1)
        silent = probs[:, self.nothing] if self.nothing is not None else torch.zeros(len(clips), device=self.device)
        numbers = list(self.languages.values())
        spoken = torch.tensor([numbers[best] for best in probs[:, numbers].argmax(dim=-1).tolist()], device=self.device)
        if self.language is not None:
            spoken[:] = self.languages[self.language]
        tail = torch.tensor([self.task, self.no_times], device=self.device).expand(len(clips), -1)
        tokens = torch.cat([first, spoken[:, None], tail], dim=1)
        cache, given = None, tokens
        total, count = torch.zeros(len(clips), device=self.device), torch.zeros(len(clips), device=self.device)
        done = torch.zeros(len(clips), dtype=torch.bool, device=self.device)
        for _ in range(MOST_TOKENS):
            logits, cache = self._next(given, states, cache)
            logits[:, self.end + 1 :] = -torch.inf  # words alone, and the end
            log_prob, best = logits.log_softmax(dim=-1).max(dim=-1)
            total, count = total + log_prob.masked_fill(done, 0.0), count + ~done
            best = best.masked_fill(done, self.end)
            done = done | (best == self.end)
            tokens = torch.cat([tokens, best[:, None]], dim=1)
            given = best[:, None]
            if bool(done.all()):
                break
        texts = self.tokenizer.batch_decode(tokens[:, 4:], skip_special_tokens=True)
        codes = {number: name for name, number in self.languages.items()}
        nothing = ((silent > SILENT) & (total / count < UNSURE)).tolist()
        return [
            Transcript("" if none else " ".join(text.split()), codes[int(number)], float(share))
            for text, number, share, none in zip(texts, spoken.tolist(), silent.tolist(), nothing, strict=True)
        ]

    def _next(self, tokens: Tensor, states: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """(B, vocabulary) logits after the last token, and the cache."""
        found = self.model.model.decoder(
            input_ids=tokens, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        return self.model.proj_out(found.last_hidden_state[:, -1]).float(), found.past_key_values


def transcribe_rows(
    rows: Sequence[Row], root: Path, heard: Path, source: str, language: str | None, field: str
) -> list[Row]:
    """Rows with what is said in them, where they have sound and no such text.

    Args:
        rows, root: of a manifest.
        heard: file that keeps what was heard, a line for each clip, and is gone on from.
        source, language: as of `Transcriber`.
        field: name of the text field.

    Raises:
        UserError: sound cannot be read, or the model cannot be loaded.
    """
    wanted = [row for row in rows if row.audio is not None and not row.text.get(field)]
    keys = {identity: f"{key} {source} {language or ''}" for identity, key in sound_keys(wanted, root).items()}
    known: dict[str, str] = {}
    if heard.is_file():
        for line in heard.read_bytes().split(b"\n"):
            with suppress(ValueError, LookupError, TypeError):  # a line that a kill cut short; its clip is heard again
                found = json.loads(line)
                known[found["sound"]] = found["text"]
    missing = [row for row in wanted if keys[row.id] not in known]
    transcriber = Transcriber(source, language=language) if missing else None
    missing.sort(key=lambda row: (row.audio.duration or 0.0) if row.audio else 0.0)
    heard.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(missing), unit="clip", desc="words", disable=None) as bar:
        for at in range(0, len(missing), BATCH):
            part = missing[at : at + BATCH]
            assert transcriber is not None
            clips = [read_row_audio(row.audio, root) for row in part if row.audio is not None]
            lines = []
            for row, said in zip(part, transcriber.transcribe(clips), strict=True):
                known[keys[row.id]] = said.text
                record = {
                    "sound": keys[row.id],
                    "text": said.text,
                    "language": said.language,
                    "no_speech": said.no_speech,
                }
                lines.append(json.dumps(record, ensure_ascii=False))
            append_lines(heard, lines)
            bar.update(len(part))
    return [
        replace(row, text={**row.text, field: known[keys[row.id]]}) if known.get(keys.get(row.id, "")) else row
        for row in rows
    ]
