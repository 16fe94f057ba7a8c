"""What a sound file is by its first bytes, whether its header tells the truth, and ffmpeg for what libsndfile does not read."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from shala_audio.errors import UserError, first_line

SUFFIXES: tuple[str, ...] = (
    *(".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64"),  # libsndfile's
    *(".m4a", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp", ".mov"),  # ffmpeg's
)
UNKNOWN = 0x7FFFF000  # bytes; from here on, a header's size stands for one that was not known yet (SoX, ffmpeg)
EXTRA = 0.05  # seconds of sound that may stand after what the header tells of: tags, padding
HEAD = 512  # bytes that are looked at

# First bytes of what only ffmpeg reads, and what to call it.
_FFMPEG = (
    (b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA or another file of Windows Media"),
    (b"#!AMR", "AMR"),
    (b"wvpk", "WavPack"),
    (b"MAC ", "Monkey's Audio"),
    (b"FLV", "Flash video"),
    (b"\x00\x00\x01\xba", "MPEG video"),
)
# First bytes of what is no sound at all.
_OTHER = (
    (b"PK\x03\x04", "a zip archive (or a file of Office); unpack it"),
    (b"\x1f\x8b", "gzip; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a rar archive; unpack it"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
    (b"\x93NUMPY", "an array of numpy's; load it, and give (array, rate)"),
    (b"PAR1", "a parquet file; load it with `datasets`"),
    (b"\x89HDF", "an HDF5 file"),
)


def needs_ffmpeg(head: bytes) -> str | None:
    """What a file that libsndfile does not read is called, by its first bytes; None of all others.

    >>> needs_ffmpeg(bytes(4) + b"ftypM4A "), needs_ffmpeg(b"RIFF....WAVE")
    ('M4A or MP4', None)
    """
    if head[4:8] == b"ftyp":
        return "3GP" if head[8:10] == b"3g" else "QuickTime" if head[8:10] == b"qt" else "M4A or MP4"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    return next((name for start, name in _FFMPEG if head.startswith(start)), None)


def not_sound(head: bytes) -> str | None:
    """Why a file is no sound, by its first bytes; None where they do not tell.

    >>> not_sound(b"version https://git-lfs.github.com/spec/v1")
    'is a pointer of Git LFS, not the sound itself: run `git lfs pull` in its repository'
    """
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the sound itself: run `git lfs pull` in its repository"
    if head.startswith(b"/annex/objects/") or b"/.git/annex/objects/" in head:
        return "is a pointer of git-annex, not the sound itself: run `git annex get` in its repository"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "is an HTML page, not sound: perhaps the page of a log-in or an error; download the file again"
    if start.startswith((b"<?xml", b"{")):
        return "is XML or JSON, not sound: perhaps a server's error; download the file again"
    for first, name in _OTHER:
        if head.startswith(first):
            return f"is no sound but {name}"
    if not head.startswith(b"NIST_1A") and head and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        shown = head[:40].decode("ascii").strip().splitlines()
        return f"is text, not sound: it begins with {shown[0]!r}" if shown else "is empty text, not sound"
    return None


class _Data(NamedTuple):
    """Where the samples are: bytes promised (None where the header does not know), bytes there, and bytes a second."""

    promised: int | None
    there: int
    rate: float


def check_header(file: BinaryIO) -> None:
    """Raise UserError where a header promises more sound than there is, or tells of less: libsndfile would read what is
    there, or what the header says, and say nothing. The file is left at its beginning.

    Raises:
        UserError: of WAV, RF64, BW64, W64, AIFF, AU and CAF.
    """
    file.seek(0)
    head = file.read(HEAD)
    try:
        found = _data(file, head)
    except (struct.error, ValueError, OverflowError, LookupError):
        found = None  # libsndfile says what is wrong
    file.seek(0)
    if found is None:
        return
    promised, there, rate = found
    if promised is None:
        return
    if promised == 0 and there > EXTRA * rate:
        raise UserError("the header says that there is no sound in it, and there is; convert it with ffmpeg or sox")
    if there < promised:
        raise UserError(f"cut short: {promised} bytes of sound are promised, {there} are there")
    if rate and there - promised > EXTRA * rate:
        raise UserError(
            f"its header tells of {promised / rate:.2f} s, and {(there - promised) / rate:.2f} s more stand in the file; "
            "repair it (ffmpeg -ignore_length 1 -i FILE repaired.wav), or cut it where the header does"
        )


def _data(file: BinaryIO, head: bytes) -> _Data | None:
    size = file.seek(0, os.SEEK_END)
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        return _riff(file, size, "<" if head[:4] != b"RIFX" else ">", head[:4] in (b"RF64", b"BW64"))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] == b".snd":
        start, promised, encoding, rate, channels = struct.unpack(">5I", head[4:24])
        width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding, 0)
        return _Data(None if promised == 0xFFFFFFFF else promised, size - start, width * rate * channels)
    if head.startswith(b"NIST_1A"):
        return _nist(file, size)
    if head[:4] == b"OggS":
        _check_ogg(file, size)
        return None
    if head[:4] == b"fLaC":
        return _flac(file, size)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return _mp3(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:16] == _W64["riff"] and head[24:40] == _W64["wave"]:
        return _w64(file, size)
    return None


def _chunks(file: BinaryIO, at: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, bytes) of the chunks of a RIFF or an IFF file."""
    while at + 8 <= end:
        file.seek(at)
        kind, size = struct.unpack(f"{order}4sI", file.read(8))
        yield kind, at + 8, size
        at += 8 + size + size % 2


def _after(file: BinaryIO, at: int, end: int, order: str) -> int:
    """Bytes from `at` to the end of the file that are no chunks."""
    for kind, start, size in _chunks(file, at, end, order):
        if not all(32 <= byte < 127 for byte in kind) or start + size > end + 1:
            return end - (start - 8)
        at = start + size + size % 2
    return max(0, end - at)


def _riff(file: BinaryIO, end: int, order: str, large: bool) -> _Data | None:
    rate, long_size = 0, None
    for kind, start, size in _chunks(file, 12, end, order):
        file.seek(start)
        if kind == b"ds64" and large:
            long_size = struct.unpack("<Q", file.read(16)[8:])[0]
        elif kind == b"fmt ":
            _, _, per_second, rate, block = struct.unpack(f"{order}2H2IH", file.read(14))
            rate = rate or per_second * block
        elif kind == b"data":
            there = end - start
            if large and size == 0xFFFFFFFF and long_size is not None:
                size = long_size
            elif there >= 1 << 32:
                raise UserError("holds more than the header of a wav file can tell (4 GiB); convert it to flac")
            elif size >= UNKNOWN:
                return None
            if size and there > size:  # what follows may be other chunks
                there = size + _after(file, start + size + size % 2, end, order)
            return _Data(size, there, rate)
    return None


def _aiff(file: BinaryIO, end: int) -> _Data | None:
    rate, found = 0.0, None
    for kind, start, size in _chunks(file, 12, end, ">"):
        file.seek(start)
        if kind == b"COMM":
            channels, _, bits, exponent, mantissa = struct.unpack(">hIhHQ", file.read(18))
            rate = channels * -(-bits // 8) * mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
        elif kind == b"SSND":
            there = end - start
            if there > size:
                there = size + _after(file, start + size + size % 2, end, ">")
            found = size, there
    return None if found is None else _Data(*found, rate)


def _caf(file: BinaryIO, end: int) -> _Data | None:
    at, rate = 8, 0.0
    while at + 12 <= end:
        file.seek(at)
        kind, size = struct.unpack(">4sq", file.read(12))
        if kind == b"desc":
            per_second, _, _, packet, frames = struct.unpack(">d4sIII", file.read(24))
            rate = per_second * packet / frames if frames else 0.0
        if kind == b"data":
            return None if size < 0 else _Data(size, size if end - at - 12 > size else end - at - 12, rate)
        at += 12 + max(size, 0)
    return None


_W64 = {
    "riff": b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",
    "wave": b"wave\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",
}


def _w64(file: BinaryIO, end: int) -> _Data | None:
    at, rate = 40, 0
    while at + 24 <= end:
        file.seek(at)
        head = file.read(24)
        kind, size = head[:4], struct.unpack("<Q", head[16:])[0]
        if kind == b"fmt ":
            rate = struct.unpack("<I", file.read(12)[8:])[0]
        if kind == b"data":
            there = end - at - 24
            return _Data(size - 24, min(there, size - 24), rate)
        if size < 24:
            return None
        at += -(-size // 8) * 8
    return None


def _nist(file: BinaryIO, end: int) -> _Data | None:
    file.seek(0)
    lines = file.read(1024).decode("latin-1").split("\n")
    fields = {parts[0]: parts[2] for line in lines if len(parts := line.split(None, 2)) == 3}
    if "pcm" not in fields.get("sample_coding", "pcm") or "shorten" in fields.get("sample_coding", ""):
        return None
    width = int(fields["sample_n_bytes"]) * int(fields.get("channel_count", 1))
    rate = int(fields["sample_rate"]) * width
    return _Data(int(fields["sample_count"]) * width, end - int(lines[1]), rate)


def _check_ogg(file: BinaryIO, end: int) -> None:
    """Raise where the last page is cut, or where another stream follows the first, which libsndfile does not read."""
    at, ended = 0, False
    while at + 27 <= end:
        file.seek(at)
        head = file.read(27)
        if head[:4] != b"OggS":
            return  # a tag, or damage, of which libsndfile has its own word
        if head[5] & 2 and ended:
            raise UserError(
                "holds several streams one after the other, of which only the first would be read; join them with ffmpeg"
            )
        ended = ended or bool(head[5] & 4)
        at += 27 + head[26] + sum(file.read(head[26]))
    if at > end:
        raise UserError(f"cut short: its last page ends {at - end} bytes after the file")


def _flac(file: BinaryIO, end: int) -> _Data | None:
    """Samples that the header tells of, and those that the last frame ends with."""
    file.seek(8)
    info = file.read(34)
    per_second = info[10] << 12 | info[11] << 4 | info[12] >> 4
    total = (info[13] & 15) << 32 | int.from_bytes(info[14:18], "big")
    block = int.from_bytes(info[:2], "big")
    if not total or not per_second:
        return None
    file.seek(max(0, end - (1 << 17)))
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if (found := _flac_frame(tail[at : at + 16], block)) is not None:
            return None if found <= total + EXTRA * per_second else _Data(total, found, per_second)
    return None


def _flac_frame(head: bytes, block: int) -> int | None:
    """The first sample of the frame that begins with these bytes; None where they begin none."""
    if len(head) < 8 or head[1] not in (0xF8, 0xF9) or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] >> 4 > 10:
        return None
    ones = next((bit for bit in range(8) if not head[4] >> (7 - bit) & 1), 8)
    count = max(1, ones)
    if ones == 1 or ones > 7 or len(head) < 5 + count:
        return None
    number = head[4] & (0x7F if not ones else (1 << (7 - ones)) - 1)
    for byte in head[5 : 4 + count]:
        number = number << 6 | byte & 0x3F
    at = 4 + count
    at += {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= at:
        return None
    check = 0
    for byte in head[:at]:
        check ^= byte
        for _ in range(8):
            check = (check << 1 ^ 0x07) & 0xFF if check & 0x80 else check << 1
    if check != head[at]:
        return None
    return number if head[1] & 1 else number * block


def _mp3(file: BinaryIO, end: int) -> _Data | None:
    """Bytes of which a Xing or Info header tells."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3":
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start)
    frame = file.read(200)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return None
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    if not flags & 2:
        return None
    place = at + 8 + (4 if flags & 1 else 0)
    promised = int.from_bytes(frame[place : place + 4], "big")
    return _Data(promised, min(end - start, promised), 0.0) if promised and end - start < 0.98 * promised else None


def through_ffmpeg(source: str | os.PathLike[str] | BinaryIO, what: str, longest: float | None = None) -> BinaryIO:
    """A file's first sound track, decoded by ffmpeg to WAV of its own rate and channels, as an open file.

    Args:
        source: path, or open file, which is copied beside first: ffmpeg must seek.
        what: the file is called, for the message.
        longest: seconds; of more, a second more is decoded, so that it can be told.

    Raises:
        UserError: ffmpeg is not installed, or cannot read it.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(
            f"is {what}, which ffmpeg reads: install ffmpeg, or convert it elsewhere (ffmpeg -i FILE clip.wav)"
        )
    if not isinstance(source, (str, os.PathLike)):
        with tempfile.NamedTemporaryFile() as copy:
            source.seek(0)
            shutil.copyfileobj(source, copy)
            copy.flush()
            return through_ffmpeg(copy.name, what, longest)
    command = [program, "-v", "error", "-nostdin", "-xerror", "-i", f"file:{os.fspath(source)}"]
    command += ["-map", "0:a:0", "-f", "wav", "-c:a", "pcm_f32le"]
    command += ["-t", str(longest + 1), "-"] if longest is not None else ["-"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or len(done.stdout) < 100:
        reason = first_line(ValueError(done.stderr.decode("utf-8", "replace").replace(str(source), "it")))
        raise UserError(f"is {what}, and ffmpeg cannot read it ({reason})")
    return io.BytesIO(done.stdout)
