"""Words from the sound itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

import shala_audio
from shala_audio.audio.io import read_sound
from shala_audio.errors import UserError
from shala_audio.inference.transcribe import Transcriber, transcribe_rows
from shala_audio.manifest import Audio, Row, read_manifest, write_manifest
from shala_audio.models.pretrained import is_pulled
from tests.cli.test_cli import invoke

SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|nospeech|>",
]
SPECIAL += ["<|notimestamps|>"]


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate([*words, *SPECIAL])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0]).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        vocab_size=len(words) + len(SPECIAL),
        d_model=16,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        init_std=0.5,
        decoder_start_token_id=len(words) + 1,
        eos_token_id=len(words),
        pad_token_id=len(words),
        bos_token_id=len(words),
        **sizes,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))).astype(np.float32)


def test_a_clip_is_heard_alone_as_in_a_batch_and_long_ones_in_windows(tiny_whisper, monkeypatch):
    monkeypatch.setattr("shala_audio.inference.transcribe.MOST_TOKENS", 6)
    monkeypatch.setattr("shala_audio.inference.transcribe.SILENT", 2.0)
    transcriber = Transcriber(str(tiny_whisper), device="cpu")
    clips = [noise(1.0), noise(0.4, 1), noise(33.0, 2)]
    together = transcriber.transcribe(clips)
    assert [transcriber.transcribe([clip])[0].text for clip in clips] == [said.text for said in together]
    assert all(said.language in ("en", "de") and 0 <= said.no_speech <= 1 for said in together)
    assert Transcriber(str(tiny_whisper), "cpu", "de").transcribe([clips[0]])[0].language == "de"
    with pytest.raises(UserError, match="--language fr: not one that .* knows; use en, de"):
        Transcriber(str(tiny_whisper), "cpu", "fr")
    with pytest.raises(UserError, match="nowhere: cannot be loaded as a Whisper model"):
        Transcriber("nowhere")


def test_greedy_decoding_is_transformers_own(tiny_whisper, monkeypatch):
    monkeypatch.setattr("shala_audio.inference.transcribe.MOST_TOKENS", 5)
    monkeypatch.setattr("shala_audio.inference.transcribe.SILENT", 2.0)
    transcriber = Transcriber(str(tiny_whisper), "cpu", "en")
    clip = noise(1.0)
    said = transcriber.transcribe([clip])[0].text
    model, tokenizer = transcriber.model, transcriber.tokenizer
    mel = transcriber.extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    tokens = torch.tensor(
        [tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"])]
    )
    for _ in range(5):
        with torch.no_grad():
            logits = model(input_features=mel, decoder_input_ids=tokens).logits[:, -1]
        logits[:, transcriber.end + 1 :] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
        if tokens[0, -1] == transcriber.end:
            break
    assert said == " ".join(tokenizer.decode(tokens[0, 4:], skip_special_tokens=True).split())


def test_rows_get_transcripts_and_an_interrupted_job_goes_on(tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setattr("shala_audio.inference.transcribe.MOST_TOKENS", 4)
    monkeypatch.setattr("shala_audio.inference.transcribe.SILENT", 2.0)
    rows = []
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", noise(0.5, number), 16_000)
        rows.append(Row(f"r{number}", "t", "predict", audio=Audio(f"{number}.wav", 0.0, 0.5)))
    rows.append(Row("said", "t", "predict", audio=Audio("0.wav"), text={"transcript": "as it is"}))
    write_manifest(tmp_path / "m.jsonl", rows)
    options = ("--audio-root", tmp_path, "--model", tiny_whisper, "--out", tmp_path / "heard.jsonl")
    invoke("data", "transcribe", tmp_path / "m.jsonl", *options)
    found = {row.id: row.text.get("transcript", "") for row in read_manifest(tmp_path / "heard.jsonl")}
    assert found["said"] == "as it is"
    lines = (tmp_path / "heard.jsonl.heard").read_text().splitlines()
    assert len(lines) == 3 and {json.loads(line)["text"] for line in lines} >= {found["r0"]}
    cut = f'{lines[2][:20]}"é'.encode()[:-1]  # by a kill, in the middle of a letter
    (tmp_path / "heard.jsonl.heard").write_bytes(f"{lines[0]}\n{lines[1]}\n".encode() + cut)
    (tmp_path / "heard.jsonl").unlink()
    invoke("data", "transcribe", tmp_path / "m.jsonl", *options)
    assert {row.id: row.text.get("transcript", "") for row in read_manifest(tmp_path / "heard.jsonl")} == found
    heard = (tmp_path / "heard.jsonl.heard").read_bytes().splitlines()
    assert len(heard) == 4, "one clip was heard again, in a line of its own"
    again, before = json.loads(heard[3]), json.loads(lines[2])
    assert again.pop("no_speech") == pytest.approx(before.pop("no_speech"), rel=1e-4) and again == before


def test_a_clip_under_a_name_that_was_heard_is_heard_anew(tiny_whisper, tmp_path, monkeypatch):
    """Another recording in the old one's place kept the old one's words."""
    monkeypatch.setattr("shala_audio.inference.transcribe.MOST_TOKENS", 4)
    monkeypatch.setattr("shala_audio.inference.transcribe.SILENT", 2.0)
    rows = [Row("r", "t", "predict", audio=Audio("a.wav"))]
    texts = []
    for seed in (0, 3, 0):
        soundfile.write(tmp_path / "a.wav", noise(0.5, seed), 16_000)
        (row,) = transcribe_rows(rows, tmp_path, tmp_path / "heard", str(tiny_whisper), None, "transcript")
        texts.append(row.text["transcript"])
    assert texts[0] == texts[2] != texts[1]
    assert len((tmp_path / "heard").read_bytes().splitlines()) == 2


def test_nothing_is_written_down_where_there_is_no_speech_and_the_words_are_unsure(tiny_whisper, monkeypatch):
    """Words that the model was sure of were dropped."""
    monkeypatch.setattr("shala_audio.inference.transcribe.MOST_TOKENS", 4)
    texts = {}
    for silent, unsure in ((2.0, 0.0), (-1.0, 0.0), (-1.0, -99.0), (2.0, -99.0)):
        monkeypatch.setattr("shala_audio.inference.transcribe.SILENT", silent)
        monkeypatch.setattr("shala_audio.inference.transcribe.UNSURE", unsure)
        texts[silent, unsure] = Transcriber(str(tiny_whisper), "cpu").transcribe([noise(0.5)])[0].text
    assert texts[-1.0, 0.0] == "" and texts[2.0, 0.0] == texts[-1.0, -99.0] == texts[2.0, -99.0] != ""


@pytest.mark.slow
@pytest.mark.skipif(not is_pulled("whisper-base-asr"), reason="`shala-audio models pull whisper-base-asr`")
def test_the_examples_are_understood():
    clips = [read_sound(shala_audio.example(name)) for name in ("clear", "contested")]
    clear, contested, silence = Transcriber().transcribe([*clips, np.zeros(32_000, dtype=np.float32)])
    assert (
        clear.text.rstrip(".!") == "Don't forget a jacket"
        and contested.text.rstrip(".") == "I'm on my way to the meeting"
    )
    assert silence.text == "" and silence.no_speech > 0.6 > max(clear.no_speech, contested.no_speech)
