"""A launcher of recipes under test: one process imports torch and the trainer, and forks for each command.

A recipe starts some ten commands, and each would import them anew, which takes longer than what it does with tiny models. The
command runs in a process of its own, with its own streams, folder and environment, by the program's entry point. What libraries
read from the environment when they are imported is the server's.

    python forks.py serve SOCKET         imports, says "ready", and goes on until its input ends with who started it
    python forks.py ask SOCKET WORDS...  `shala-audio WORDS...`, with its exit status
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import traceback


def serve(path: str) -> None:
    import shala_audio.cli.main
    import shala_audio.inference.predictor
    import shala_audio.training.run  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: they answer themselves
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            asked, _ = listener.accept()
            if os.fork() == 0:
                os._exit(answer(asked))
            asked.close()


def answer(asked: socket.socket) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(asked, 1, 3)
    with asked.makefile("rb") as file:
        words, folder, environment = json.load(file)
    for stream, number in zip(streams, (0, 1, 2), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["shala-audio", *words]
    status = 0
    try:
        from shala_audio.cli.main import main

        main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    asked.sendall(str(status).encode())
    return status


def ask(path: str, *words: str) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"x"], [0, 1, 2])
        server.sendall(json.dumps([words, os.getcwd(), dict(os.environ)]).encode())
        server.shutdown(socket.SHUT_WR)
        return int(server.recv(8) or 1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(*sys.argv[2:]))
