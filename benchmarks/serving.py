"""Answers a second, and seconds to an answer, of `shala-audio serve default` with 1, 8 and 32 clients.

Each client asks again as soon as it has its answer, on the same machine. With `together` 1 requests are answered one by one.

    python -m benchmarks.serving [--requests 64]
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import uvicorn

from shala_audio import example
from shala_audio.inference import default
from shala_audio.inference.predictor import Predictor
from shala_audio.web.app import create_app
from shala_audio.web.limits import Limits

CLIENTS = (1, 8, 32)


def measure(address: str, clients: int, requests: int, sound: bool) -> tuple[float, float, float]:
    """Answers a second, and the median and 95th percentile of seconds to an answer."""
    content = Path(example("contested")).read_bytes()

    def ask(number: int) -> float:
        began = time.perf_counter()
        if sound:
            answer = httpx.post(f"{address}/api/predict", files={"clip": ("a.wav", content)}, timeout=300)
        else:
            answer = httpx.post(f"{address}/api/predict", data={"text": f"Oh no, not again. {number}"}, timeout=300)
        answer.raise_for_status()
        return time.perf_counter() - began

    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        seconds = list(pool.map(ask, range(requests)))
        whole = time.perf_counter() - began
    return requests / whole, *np.quantile(seconds, [0.5, 0.95])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=64)
    given = parser.parse_args()
    predictors = [Predictor.from_pretrained(default.part(sound)) for sound in (True, False)]
    print(
        "| input | clients | answered together | answers a second | median seconds | 95th percentile |\n|---|---|---|---|---|---|"
    )
    for together in (1, 16):
        listening = socket.create_server(("127.0.0.1", 0))
        app = create_app(predictors, limits=Limits(together=together))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        while not server.started:
            time.sleep(0.05)
        for sound in (True, False):
            measure(address, 1, 2, sound)  # loads what is loaded at first use
            for clients in CLIENTS:
                rate, median, late = measure(address, clients, given.requests, sound)
                what = "clip" if sound else "text"
                print(f"| {what} | {clients} | {together} | {rate:.1f} | {median:.2f} | {late:.2f} |", flush=True)
        server.should_exit = True
        thread.join(10)


if __name__ == "__main__":
    main()
