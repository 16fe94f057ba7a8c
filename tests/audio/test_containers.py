"""What a file is by its first bytes, headers that do not tell the truth, and ffmpeg."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from shala_audio.audio.clips import samples_of
from shala_audio.audio.containers import through_ffmpeg
from shala_audio.audio.io import read_sound
from shala_audio.errors import UserError

RATE = 16_000


def tone(seconds=1.0, rate=RATE):
    return (0.3 * np.sin(np.arange(int(seconds * rate)) / rate * 2 * np.pi * 440)).astype(np.float32)


def written(format, subtype="PCM_16", seconds=10.0, channels=1):
    file = io.BytesIO()
    samples = np.repeat(tone(seconds)[:, None], channels, axis=1)
    soundfile.write(file, samples, RATE, format=format, subtype=subtype)
    return bytearray(file.getvalue())


def tells(format, seconds):
    """A file of 10 s whose header tells of so many."""
    raw = written(format)
    size = int(seconds * RATE * 2)
    if format == "WAV":
        struct.pack_into("<I", raw, raw.index(b"data") + 4, size)
    elif format == "RF64":
        struct.pack_into("<Q", raw, raw.index(b"ds64") + 16, size)
        struct.pack_into("<I", raw, raw.index(b"data") + 4, 0xFFFFFFFF)
    elif format == "AIFF":
        struct.pack_into(">I", raw, raw.index(b"SSND") + 4, size + 8)
    elif format == "AU":
        struct.pack_into(">I", raw, 8, size)
    return bytes(raw)


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "AU"])
def test_a_header_that_tells_less_than_the_file_holds(format, tmp_path):
    """10 s on disk and 2 s in the header: 2 s were read."""
    assert len(read_sound(io.BytesIO(tells(format, 10.0)))) == 160_000
    with pytest.raises(UserError, match=r"header tells of 2\.00 s, and 8\.\d\d s more stand in the file; repair it"):
        read_sound(io.BytesIO(tells(format, 2.0)))
    (tmp_path / "a.wav").write_bytes(tells(format, 2.0))
    with pytest.raises(UserError, match=r"a\.wav: its header tells of 2\.00 s"):
        samples_of(tmp_path / "a.wav")


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "AU", "W64", "CAF", "FLAC", "WAVEX"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_file_that_was_cut(format, share):
    """An RF64 cut to a fifth was read."""
    raw = bytes(written(format))
    assert len(read_sound(io.BytesIO(raw))) == 160_000
    with pytest.raises(UserError, match="cut short|cannot be read as sound"):
        read_sound(io.BytesIO(raw[: int(share * len(raw))]))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"])
def test_honest_headers_are_believed(subtype):
    for channels in (1, 2):
        assert len(read_sound(io.BytesIO(bytes(written("WAV", subtype, 1.01, channels))))) == pytest.approx(
            16_160, abs=600
        )


def test_chunks_and_a_tag_after_the_samples_are_no_sound():
    raw = written("WAV")
    for after in (b"LIST" + struct.pack("<I", 50_000) + bytes(50_000), b"TAG" + b"x" * 125, b"\0" * 400):
        assert len(read_sound(io.BytesIO(bytes(raw) + after))) == 160_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS.*`git lfs pull`"),
        (b"/annex/objects/MD5E-s1--0.wav\n", "git annex get"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "HTML page"),
        (b'{"error": "denied"}', "XML or JSON"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
        (b"\x93NUMPY" + bytes(60), "an array of numpy's"),
        (b"hello there", "is text, not sound: it begins with 'hello there'"),
    ],
)
def test_what_is_no_sound_is_named(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.wav: .*{message}"):
        read_sound(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x20ftypM4A " + bytes(60), "M4A or MP4"),
        (b"\0\0\0\x20ftyp3gp4" + bytes(60), "3GP"),
        (b"\x1a\x45\xdf\xa3" + bytes(60), "WebM"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(60), "WMA"),
        (b"\xff\xf1\x50\x80" + bytes(60), "AAC"),
        (b"#!AMR\n" + bytes(60), "AMR"),
    ],
)
def test_what_needs_ffmpeg_says_so(tmp_path, monkeypatch, content, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=rf"is {name}.*install ffmpeg.*ffmpeg -i FILE clip\.wav"):
        read_sound(io.BytesIO(content))


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A real ffmpeg on the path."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ffmpeg"
    program.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert shutil.which("ffmpeg") == str(program)
    return program


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "aac", "webm", "wma", "mka"])
def test_ffmpeg_reads_what_phones_record(tmp_path, ffmpeg, suffix):
    """They were "not recognised"."""
    soundfile.write(tmp_path / "a.wav", np.stack([tone(2.0), 0.02 * tone(2.0)], axis=1), RATE)
    clip = tmp_path / f"a.{suffix}"
    subprocess.run([ffmpeg, "-v", "error", "-i", tmp_path / "a.wav", clip], check=True)
    left = read_sound(clip, channel=0)
    assert len(left) == pytest.approx(32_000, abs=3_000) and np.abs(left).max() > 0.2
    assert np.abs(read_sound(io.BytesIO(clip.read_bytes()), channel=1)).max() < 0.05
    with pytest.raises(UserError, match="at most 0 s are taken"):
        read_sound(clip, longest=0.4)
    decoded = through_ffmpeg(clip, "a phone's", longest=0.25).getbuffer().nbytes
    assert decoded < 0.75 * through_ffmpeg(clip, "a phone's").getbuffer().nbytes, (
        "what is too long is not decoded to its end"
    )
    clip.write_bytes(clip.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"a\.{suffix}: .*ffmpeg cannot read it"):
        read_sound(clip)


def test_a_flac_header_that_tells_less_than_the_file_holds():
    raw = written("FLAC")
    samples = 32_000
    raw[8 + 13] = raw[8 + 13] & 0xF0
    raw[8 + 14 : 8 + 18] = samples.to_bytes(4, "big")
    with pytest.raises(UserError, match=r"header tells of 2\.00 s, and [78]\.\d\d s more"):
        read_sound(io.BytesIO(bytes(raw)))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_or_goes_on(subtype):
    """A fifth of it was read, or the first of two streams."""
    raw = bytes(written("OGG", subtype))
    assert len(read_sound(io.BytesIO(raw))) == pytest.approx(160_000, abs=500)
    with pytest.raises(UserError, match="cut short"):
        read_sound(io.BytesIO(raw[: len(raw) // 5]))
    with pytest.raises(UserError, match="holds several streams"):
        read_sound(io.BytesIO(raw + raw))


def test_an_mp3_with_a_table_of_contents_that_was_cut(tmp_path, ffmpeg):
    soundfile.write(tmp_path / "a.wav", tone(10.0), RATE)
    subprocess.run([ffmpeg, "-v", "error", "-i", tmp_path / "a.wav", "-q:a", "4", tmp_path / "a.mp3"], check=True)
    raw = (tmp_path / "a.mp3").read_bytes()
    assert len(read_sound(io.BytesIO(raw))) == pytest.approx(160_000, abs=3_000)
    with pytest.raises(UserError, match="cut short"):
        read_sound(io.BytesIO(raw[: len(raw) // 2]))


def test_sphere_is_sound_and_its_length_is_believed_only_if_it_is_there():
    """Its header is text, and was taken for no more than that."""
    fields = ["sample_count -i 16000", "sample_rate -i 16000", "channel_count -i 1", "sample_n_bytes -i 2"]
    fields += ["sample_byte_format -s2 01", "sample_coding -s3 pcm", "sample_sig_bits -i 16", "end_head"]
    head = "\n".join(["NIST_1A", "   1024", *fields, ""]).encode().ljust(1024)
    raw = head + np.int16(tone() * 32767).tobytes()
    np.testing.assert_allclose(read_sound(io.BytesIO(raw)), tone(), atol=1e-4)
    with pytest.raises(UserError, match="cut short"):
        read_sound(io.BytesIO(raw[: len(raw) // 2]))


def test_a_wav_that_does_not_say_its_byte_rate():
    raw = bytearray(tells("WAV", 2.0))
    struct.pack_into("<I", raw, raw.index(b"fmt ") + 16, 0)
    with pytest.raises(UserError, match="header tells of 2.00 s"):
        read_sound(io.BytesIO(bytes(raw)))


@pytest.mark.parametrize("address", ["https://host/a.wav", "s3://bucket/a.wav", "data:audio/wav;base64," + "A" * 9_000])
def test_an_address_is_no_file(address):
    with pytest.raises(UserError, match="is an address, and not a file; download it first") as caught:
        samples_of(address)
    assert len(str(caught.value)) < 200
