"""SIGKILL at random moments of every stage, a full disk, a read-only folder: nothing is lost, and the results are the same.

    python -m tests.reliability.kill_resume --kills 20

Each stage runs once without interruption. Then it is started, killed at a random moment and started again with the same
command, until it has been killed so often; whenever it gets to its end, its results must be the uninterrupted run's, byte for
byte, and it begins anew. The models are tiny and random, since this is about files. On a full disk and in a
read-only folder the command must say so in a line, and come to the same results once there is room. Prints a table; exits
with 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

import shala_audio  # noqa: F401  (before torchaudio is imported)

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
TIMES = {  # what measures time, and may differ
    "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "epoch_time",
}  # fmt: skip


APPENDED = ("log.jsonl", "samples.jsonl", "index.jsonl")  # whose readers cut them to whole lines


@dataclass
class Stage:
    """A command that is killed; `{out}` in it is its folder. `results` says what must be the same, and `progress` how much is
    kept so far: it must not become less, or work was done again."""

    name: str
    command: str
    results: Callable[[Path], object]
    progress: Callable[[Path], int] = lambda out: 0


def bytes_of(*names: str) -> Callable[[Path], object]:
    return lambda out: {name: (out / name).read_bytes() for name in names}


def trained(out: Path) -> object:
    """Weights, and what was logged of every step."""
    assert not list(out.glob("checkpoint-*")) and not (out / "unfinished").exists(), "checkpoints are cleared away"
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in record.items() if key not in TIMES} for record in log]
    steps = [record["step"] for record in log if "loss" in record]
    assert steps == sorted(set(steps)), "a step is logged twice"
    return (out / "trained.safetensors").read_bytes(), [record for record in kept if len(record) > 2]


def features(out: Path) -> object:
    """Every clip's tensor, however the clips are spread over shards."""
    index = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    entries = {entry["id"]: entry for entry in index}
    return {name: load_file(out / entry["shard"])[name].tobytes() for name, entry in sorted(entries.items())}


def newest_checkpoint(out: Path) -> int:
    if (out / "training.json").is_file():
        return sys.maxsize  # it is finished
    return max((int(path.name.removeprefix("checkpoint-")) for path in out.glob("checkpoint-*")), default=0)


def clips_encoded(out: Path) -> int:
    return (out / "index.jsonl").read_bytes().count(b"\n") if (out / "index.jsonl").is_file() else 0


def batches_predicted(out: Path) -> int:
    begun = out / ".p.jsonl.begun"
    return sys.maxsize if (out / "p.jsonl").is_file() else begun.read_bytes().count(b"\n") if begun.is_file() else 0


def predictions(out: Path) -> object:
    lines = (out / "p.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert len(ids) == len(set(ids)), "a row is predicted twice"
    return lines


def make_stages(base: Path) -> list[Stage]:
    """Corpora, tiny models and a trained model to start from."""
    from tests.tiny import make_tiny_encoder, make_tiny_lm

    lm, encoder = make_tiny_lm(base / "lm"), make_tiny_encoder(base / "encoder")
    model, data, feats = base / "tiny.yaml", base / "data", base / "features"
    manifest = data / "manifest.jsonl"
    model.write_text(
        f"lm: {lm}\nencoder: {encoder}\nencoder_layers: [1, 2]\nframe_stack: 8\nprojector_width: 16\nlora_r: 4\n"
        "lora_alpha: 8\nsystem_prompt: ''\n"
    )
    encode = f"features {manifest} --model {model} --audio-root {data} --out"
    learn = (
        f"--manifest {manifest} --features {feats} --bf16 false --logging_steps 1 --save_strategy steps --save_steps 3 "
        "--resume --report_to none --watch_dev 2"
    )
    fresh = f"train --method warm_start --task mini --model {model} {learn}"
    predict = f"predict {base}/start_label_token {manifest} --features {feats} --format jsonl --resume"
    run(f"prepare mini --out {data} --max-rows 60", check=True)
    run(f"{encode} {feats}", check=True)
    for readout in ("label_token", "slots", "verbalized"):
        run(f"{fresh} --readout {readout} --max_steps 4 --output_dir {base}/start_{readout}", check=True)
    run(f"{predict} --out {base}/p.jsonl", check=True)
    prepared = bytes_of("manifest.jsonl", "splits.json", "summary.json")
    stages = [
        Stage("prepare", "prepare mini --out {out} --max-rows 120", prepared),
        Stage("features", f"{encode} {{out}} --copies 20", features, clips_encoded),
        Stage("warm start", f"{fresh} --ear_epochs 2 --max_steps 20 --output_dir {{out}}", trained, newest_checkpoint),
    ]
    for readout in ("label_token", "slots", "verbalized"):
        steps = "--max_steps 60"
        if readout != "label_token":
            steps = "--num_generations 4 --per_device_train_batch_size 8 --max_steps 20"
        if readout == "verbalized":
            steps += " --weight_decay 0.1"  # a tiny model's answers never parse, so that nothing else moves its weights
        command = f"train --method shala_dynamic --init {base}/start_{readout} {learn} {steps} --output_dir {{out}}"
        stages.append(Stage(f"SHALA, {readout}", command, trained, newest_checkpoint))
    stages.append(Stage("predict", f"{predict} --out {{out}}/p.jsonl --batch-size 1", predictions, batches_predicted))
    score = f"score {base}/p.jsonl {manifest} --out {{out}}/score.json --bootstrap 3000"
    return [*stages, Stage("score", score, bytes_of("score.json"))]


def start(arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "shala_audio", *arguments.split()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def run(arguments: str, check: bool = False) -> tuple[int, str]:
    process = start(arguments)
    said, _ = process.communicate()
    assert not check or process.returncode == 0, said
    return process.returncode, said


def torn(out: Path) -> list[str]:
    """Files that a kill left and a later run could take for whole: JSON that is none, weights that do not load."""
    bad = []
    for path in out.rglob("*"):
        if not path.is_file() or path.name.startswith(".") or path.name.endswith(".tmp") or "unfinished" in path.parts:
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl" and path.name not in APPENDED:
                assert path.read_text().endswith("\n"), "cut short"
                for line in path.read_text().splitlines():
                    json.loads(line)
            elif path.suffix == ".safetensors":
                load_file(path)
        except Exception as error:
            bad.append(f"{path.relative_to(out)}: {error}")
    for checkpoint in out.glob("checkpoint-*"):
        needed = {"trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
        if missing := needed - {path.name for path in checkpoint.iterdir()}:
            bad.append(f"{checkpoint.name}: without {', '.join(sorted(missing))}")
    return bad


def kill_until(stage: Stage, base: Path, kills: int, rng: random.Random) -> tuple[object, int, int, int, list[str]]:
    """(results of the run without kills, kills, ends reached, starts from kept work, complaints) of one stage."""
    out = base / "reference"
    out.mkdir()
    arguments = stage.command.replace("{out}", str(out))
    began = time.monotonic()
    run(arguments, check=True)
    lasts = time.monotonic() - began
    expected = stage.results(out)
    killed = ends = gone_on = 0
    complaints: list[str] = []
    out, kept = base / "killed", 0
    shutil.rmtree(out, ignore_errors=True)
    arguments = stage.command.replace("{out}", str(out))
    while killed < kills or ends == 0:
        out.mkdir(exist_ok=True)
        process = start(arguments)
        try:
            said, _ = process.communicate(timeout=rng.uniform(0.1, 1.05) * lasts if killed < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            complaints += [f"after kill {killed}: {bad}" for bad in torn(out)]
            if (now := stage.progress(out)) < kept:
                complaints.append(f"after kill {killed}: {now} is done, and it was {kept} before")
            gone_on += kept > 0
            kept = now
            continue
        if process.returncode:
            complaints.append(f"after kill {killed}: exit status {process.returncode}: {said[-500:]}")
        elif stage.results(out) != expected:
            complaints.append(f"after kill {killed}: other results than without it")
        ends += 1
        gone_on += kept > 0
        kept = 0
        shutil.rmtree(out)
    shutil.rmtree(base / "reference")
    return expected, killed, ends, gone_on, complaints


def refused(stage: Stage, base: Path, kind: str, expected: object) -> str:
    """What a stage says on a full disk, or in a folder that cannot be written; it must not be a traceback. With room, or the
    folder writable, the same command then ends as it does undisturbed."""
    disk = base / "disk"
    disk.mkdir()
    size = "64k" if kind == "full disk" else "4m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        arguments = stage.command.replace("{out}", str(disk / "out"))
        status, said = run(arguments)
        left = torn(disk)
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
        again, said_again = run(arguments)
        if again:
            left.append(f"afterwards: {said_again[-400:]}")
        elif stage.results(disk / "out") != expected:
            left.append("afterwards: other results than undisturbed")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()
    if status == 0:
        return "fitted in"
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if "Traceback" in said or left or not last.startswith("shala-audio: "):
        return f"FAILED: {left or said[-400:]}"
    return f"said: {last[:80].replace(str(base), '')}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="stages whose name holds this")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    failed = False
    print(
        "| stage | kills | runs that came to their end, all equal | starts from kept work | full disk | read-only folder |\n"
        "|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for stage in make_stages(base):
            if given.only not in stage.name:
                continue
            expected, killed, ends, gone_on, complaints = kill_until(stage, base, given.kills, rng)
            mounts = os.geteuid() == 0 and shutil.which("mount")
            faults = [
                refused(stage, base, kind, expected) if mounts else "not root" for kind in ("full disk", "read-only")
            ]
            print(f"| {stage.name} | {killed} | {ends} | {gone_on} | {' | '.join(faults)} |", flush=True)
            for complaint in complaints:
                print(f"    {complaint}", flush=True)
            failed |= bool(complaints) or any(fault.startswith("FAILED") for fault in faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
