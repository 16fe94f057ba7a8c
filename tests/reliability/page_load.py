"""Strangers at the page: many clients, slow and broken uploads, wrong types, tricks in names.

    python -m tests.reliability.page_load --seconds 60 --clients 200
    python -m tests.reliability.page_load --model default

Starts the page on loopback in a process of its own, sends to it alone for so long, and prints counts of answers, percentiles
of waiting, and the server's memory before and after. Exits with 1 if an answer was not one that its request
deserves, most good clips were refused, memory grew without bound, or a file was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import soundfile

MOST_GROWTH = 400e6  # bytes that the server may grow by: uploads in flight, and buffers
CLOSED = 0  # instead of a status: the server closed the connection before it had all of a body that it refused
# What each kind of request may be answered with, beside 503 and CLOSED where too much comes at once.
HONEST = {
    "a clip": {200}, "a timeline": {200}, "zero bytes": {422}, "no sound": {422}, "tricky names": {200, 400, 422},
    "tasks": {200}, "wrong types": {400, 415, 422}, "100 MB": {413}, "100 MB in pieces": {413}, "slow": {200},
    "half-closed": {400}, "left in the middle": {CLOSED},
}  # fmt: skip
MOST_REFUSED = 0.8  # of good clips, by a page that is asked for far more than it can compute
TRICKS = ("../../etc/passwd", "a\x00b.wav", "C:\\evil.wav", "%2e%2e%2f.wav", "x" * 5000 + ".wav", "‮gpj.wav", "")


def wav(seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)), 16_000, format="WAV")
    return file.getvalue()


class Load:
    """What clients do, and what came of it."""

    def __init__(self, port: int, until: float) -> None:
        self.port, self.until = port, until
        self.address = f"http://127.0.0.1:{port}"
        self.answers: Counter[tuple[str, int]] = Counter()
        self.waits: list[float] = []
        self.clip, self.huge = wav(), bytes(100 * 2**20)

    async def client(self, number: int) -> None:
        rng = random.Random(number)
        acts = [self.predict] * 12 + [
            self.empty,
            self.not_sound,
            self.tricky,
            self.slow,
            self.half_closed,
            self.leaving,
            self.timeline,
            self.wrong,
            self.task,
        ]
        async with httpx.AsyncClient(base_url=self.address, timeout=120) as http:
            if number % 50 == 7:
                await self.large(http)
            while time.monotonic() < self.until:
                await rng.choice(acts)(http, rng)

    async def post(self, http: httpx.AsyncClient, kind: str, to: str = "/api/predict", **body: object) -> None:
        began = time.monotonic()
        try:
            answer = await http.post(to, **body)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            assert isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError), repr(
                error
            )  # nobody waits for ever
            self.answers[kind, CLOSED] += 1
            return
        self.answers[kind, answer.status_code] += 1
        if answer.status_code == 200:
            found = answer.json()
            for one in found.get("moments", [found]):
                assert abs(sum(one["probs"].values()) - 1) < 1e-6
            self.waits.append(time.monotonic() - began)
        elif answer.status_code == 503:
            await asyncio.sleep(float(answer.headers["retry-after"]))

    async def predict(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self.post(http, "a clip", files={"clip": ("a.wav", self.clip)})

    async def timeline(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self.post(http, "a timeline", "/api/timeline?window=0.5&hop=0.5", files={"clip": ("a.wav", self.clip)})

    async def empty(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self.post(http, "zero bytes", files={"clip": ("a.wav", b"")})

    async def not_sound(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self.post(http, "no sound", files={"clip": ("a.wav", rng.randbytes(3000))})

    async def tricky(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        await self.post(http, "tricky names", files={"clip": (rng.choice(TRICKS), self.clip)})

    async def wrong(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        kind = rng.randrange(3)
        if kind == 0:
            await self.post(http, "wrong types", json={"clip": 3})
        elif kind == 1:
            await self.post(http, "wrong types", data={"clip": "not a file"})
        else:
            await self.post(http, "wrong types", content=b"\xff" * 100, headers={"Content-Type": "multipart/form-data"})

    async def task(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        self.answers["tasks", (await http.get("/api/tasks")).status_code] += 1

    async def large(self, http: httpx.AsyncClient) -> None:
        await self.post(http, "100 MB", files={"clip": ("a.wav", self.huge)})

        async def pieces() -> AsyncIterator[bytes]:  # whose number no header declares
            yield b'--x\r\nContent-Disposition: form-data; name="clip"; filename="a.wav"\r\n\r\n'
            for at in range(0, len(self.huge), 2**16):
                yield self.huge[at : at + 2**16]

        typed = {"Content-Type": "multipart/form-data; boundary=x"}
        await self.post(http, "100 MB in pieces", content=pieces(), headers=typed)

    async def slow(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """An upload in drops, by hand."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = (
            b'--x\r\nContent-Disposition: form-data; name="clip"; filename="a.wav"\r\n\r\n'
            + self.clip
            + b"\r\n--x--\r\n"
        )
        head = f"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n")
        line = b""
        try:
            for at in range(0, len(body), 2000):
                writer.write(body[at : at + 2000])
                await writer.drain()
                await asyncio.sleep(0.1)
            line = await reader.readline()
        except ConnectionError:  # it was refused before all of it had come
            pass
        self.answers["slow", int(line.split()[1]) if line else CLOSED] += 1
        writer.close()

    async def half_closed(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """A client that closes its side in the middle of its upload, and waits for an answer."""
        reader, writer = await self.half_an_upload()
        try:
            writer.write_eof()
            line = await asyncio.wait_for(reader.readline(), 60)
        except ConnectionError:
            line = b""
        self.answers["half-closed", int(line.split()[1]) if line else CLOSED] += 1
        writer.close()

    async def leaving(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """A client that leaves in the middle of its upload."""
        _, writer = await self.half_an_upload()
        writer.close()
        self.answers["left in the middle", CLOSED] += 1

    async def half_an_upload(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; "
            b'name="clip"; filename="a.wav"\r\n\r\n' + self.clip
        )
        await writer.drain()
        return reader, writer


def _open_in(folder: Path, process: int) -> list[str]:
    """Files of a folder that a process has open."""
    found = []
    for handle in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.append(os.readlink(handle))
    return [path for path in found if path.startswith(str(folder))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--model", default="", help="a tiny random one where not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(attack(Path(folder), given.model, given.seconds, given.clients))


def attack(folder: Path, model: str, seconds: float, clients: int) -> int:
    """Run the server and its clients; 1 where something is wrong."""
    if not model:
        import shala_audio  # noqa: F401  (before torchaudio is imported)
        from tests.tiny import make_tiny_encoder, make_tiny_lm, tiny_model

        model = str(folder / "model")
        tiny_model(make_tiny_lm(folder / "lm"), make_tiny_encoder(folder / "encoder")).save_pretrained(model)
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "shala_audio", "serve", model, "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if line.startswith("http://"))
        port = int(line.split(":")[2].split()[0])
        memory = psutil.Process(server.pid).memory_info
        try:
            before, load = memory().rss, Load(port, time.monotonic() + seconds)

            async def everybody() -> int:
                tasks = [asyncio.create_task(load.client(number)) for number in range(clients)]
                highest = 0
                while not all(task.done() for task in tasks):
                    highest = max(highest, memory().rss)
                    await asyncio.sleep(0.2)
                for task in tasks:
                    task.result()
                return highest

            highest = asyncio.run(everybody())
            after, left = memory().rss, _open_in(scratch, server.pid)  # also uploads in files without a name
            alive = httpx.post(
                f"{load.address}/api/predict", files={"clip": ("a.wav", load.clip)}, timeout=60
            ).status_code
        finally:
            server.terminate()
    left += [path.name for path in scratch.rglob("*") if path.is_file()]
    for (kind, status), count in sorted(load.answers.items()):
        print(f"{kind:20} {status:4} {count:6}")
    waits = np.percentile(load.waits, [50, 90, 99, 100]) if load.waits else [float("nan")] * 4
    print(json.dumps({
        "clients": clients, "seconds": seconds, "answered": len(load.waits),
        "wait_seconds": dict(zip(("p50", "p90", "p99", "longest"), np.round(waits, 3).tolist(), strict=True)),
        "memory_mb": {"before": before // 10**6, "highest": highest // 10**6, "after": after // 10**6},
        "files_left": left,
    }))  # fmt: skip
    faults = [found for found in load.answers if found[1] not in HONEST[found[0]] | {503, CLOSED}]
    clips = {status: count for (kind, status), count in load.answers.items() if kind == "a clip"}
    if clips.get(200, 0) < (1 - MOST_REFUSED) * sum(clips.values()):
        faults.append(("a clip", 503))
    for kind, status in faults:
        print(f"dishonest: {kind} {status}", file=sys.stderr)
    return int(bool(faults) or bool(left) or alive != 200 or highest - before > MOST_GROWTH or not load.waits)


if __name__ == "__main__":
    main()
