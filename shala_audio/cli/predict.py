"""`shala-audio predict`."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shala_audio.cli.resuming import Progress, identity
from shala_audio.cli.shards import Shard, launched_shard, parse_shard
from shala_audio.distribution import LabelDistribution, LabelRates
from shala_audio.errors import UserError, not_one_of

if TYPE_CHECKING:
    from shala_audio.manifest import Row


class ManifestRows:
    """The rows of a manifest's split that a job predicts, read anew whenever they are gone through."""

    def __init__(self, name: str, split: str | None, shard: Shard) -> None:
        from shala_audio.manifest import iterate_manifest

        def read() -> Iterator[Row]:
            return (row for row in iterate_manifest(name) if split is None or row.split == split)

        self._read, self._shard = read, shard
        every = sum(1 for _ in read())
        if not every:
            raise UserError(f"{name}: no rows" + (f" in split {split}" if split else ""))
        self.count = len(range(shard[0] - 1, every, shard[1]))  # none, where there are fewer rows than parts

    def __iter__(self) -> Iterator[Row]:
        return islice(self._read(), self._shard[0] - 1, None, self._shard[1])


def sound_files(names: Iterable[str], complain: Callable[[UserError], None]) -> Iterator[str]:
    """Sound files as they were named, and those in folders that were named, at any depth, by name.

    Args:
        names: of files and folders.
        complain: told of a folder that holds none.
    """

    from shala_audio.audio.containers import SUFFIXES
    from shala_audio.io import has_half_characters

    def unreadable(error: OSError) -> None:
        complain(UserError(f"{error.filename}: cannot be read ({error.strerror})"))

    for name in names:
        if has_half_characters(name):  # how bytes that are not UTF-8 come here
            complain(UserError(f"{name!r}: this name is not UTF-8; rename the file"))
            continue
        if not os.path.isdir(name):
            yield name
            continue
        found, other, linked = 0, 0, 0
        for folder, folders, files in os.walk(name, onerror=unreadable):
            folders.sort()
            linked += sum(os.path.islink(os.path.join(folder, inner)) for inner in folders)
            for file in sorted(files):
                if has_half_characters(file):
                    complain(UserError(f"{os.path.join(folder, file)!r}: this name is not UTF-8; rename the file"))
                elif file.lower().endswith(SUFFIXES):
                    found += 1
                    yield os.path.join(folder, file)
                else:
                    other += 1
        if not found:
            complain(UserError(f"{name}: holds no sound file ({', '.join(SUFFIXES)})"))
        if other:
            print(f"{name}: {other} files that are not sound by their names are left out", file=sys.stderr)
        if linked:
            print(f"{name}: {linked} links to folders are not followed; name their targets too", file=sys.stderr)


FORMATS = ("table", "json", "jsonl", "csv")
Prediction = tuple[dict[str, Any], LabelDistribution | LabelRates]


def part_of(out: Path, share: Shard) -> Path:
    """The file of one of several processes, beside that of all."""
    return out if share[1] == 1 else out.with_name(f"{out.name}.{share[0]}-of-{share[1]}")


def write_together(
    write_part: Callable[[], None], manifest: str, split: str | None, out: Path, launched: Shard
) -> None:
    """Each process writes its part beside; when all have, the first puts them together."""
    from accelerate import PartialState

    from shala_audio.evaluation.cross_validation import merge_predictions
    from shala_audio.manifest import iterate_manifest

    parts = [part_of(out, (part, launched[1])) for part in range(1, launched[1] + 1)]
    try:
        write_part()
    except UserError as error:
        alone = UserError(f"process {launched[0]} of {launched[1]}: {error}")
        alone.one_process = True
        raise alone from None
    PartialState().wait_for_everyone()
    if launched[0] == 1:
        wanted = (row.id for row in iterate_manifest(manifest) if split is None or row.split == split)
        merge_predictions(parts, wanted, out)
        for part in parts:
            part.unlink()
    PartialState().wait_for_everyone()  # what each process has begun is kept until all is together


def record(head: dict[str, Any], answer: LabelDistribution | LabelRates) -> dict[str, Any]:
    return {**head, **answer.to_record()}


def write(predictions: Iterable[Prediction], format: str, out: Path | None) -> None:
    from shala_audio.io import atomic_write

    if out is None:
        _write_to(predictions, format, sys.stdout)
        return
    with atomic_write(out) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        _write_to(predictions, format, file)


def _write_to(predictions: Iterable[Prediction], format: str, file: Any) -> None:
    if format == "json":
        json.dump([record(*prediction) for prediction in predictions], file, indent=2, ensure_ascii=False)
        file.write("\n")
    elif format == "csv":
        writer = None
        for head, answer in predictions:
            flat = {**head, **answer}
            if isinstance(answer, LabelDistribution):
                flat |= {"entropy": answer.entropy, **answer.attributes}
            if writer is None:
                writer = csv.DictWriter(file, list(flat))
                writer.writeheader()
            writer.writerow(flat)
    elif format == "jsonl":
        for prediction in predictions:
            file.write(json.dumps(record(*prediction), ensure_ascii=False) + "\n")
            file.flush()
    else:
        from rich.console import Console
        from rich.markup import escape

        console = Console(file=file, highlight=False, width=None if file is sys.stdout else 100)
        for head, answer in predictions:
            place = (
                f" {head['start']:.2f} to {head['end']:.2f} s, voice in {head['voiced']:.0%}" if "start" in head else ""
            )
            console.print(f"[bold]{escape(head['id'])}[/bold]{place}")
            console.print(answer)


def check_picture(picture: Path, window: float | None, inputs: list[str]) -> None:
    """Raises: UserError: no picture can be made of what is asked."""
    if window is None or len(inputs) != 1 or os.path.isdir(inputs[0]):
        raise UserError("--picture: of one sound file, with --window")
    if picture.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--picture {picture}: a name that ends in .png, .svg or .pdf is needed")
    try:
        import matplotlib

        matplotlib.use("Agg")  # no window, and none is needed
    except ImportError:
        raise UserError("pictures need matplotlib: in the clone, pip install -e '.[plots]'") from None


def noted(name: str) -> Callable[[str], None]:
    """What prints a note on a clip."""
    return lambda remark: print(f"note: {name}: {remark}", file=sys.stderr)


def timelines(
    predictor: Any,
    names: Iterable[str],
    window: float,
    hop: float,
    complain: Any,
    picture: Path | None,
    channel: int | None,
) -> Iterator[Prediction]:
    from shala_audio.audio.io import SAMPLE_RATE, read_sound
    from shala_audio.audio.speech import speech_remark
    from shala_audio.inference.windows import plot_timeline

    for name in names:
        try:
            samples = read_sound(name, channel=channel, note=noted(name))
            if remark := speech_remark(samples):
                noted(name)(remark)
            moments = predictor.timeline((samples, SAMPLE_RATE), window, hop)
            if picture is not None:
                plot_timeline(moments, samples, picture)
            for moment in moments:
                head = {"id": name, "start": moment.start, "end": moment.end, "voiced": round(moment.voiced, 3)}
                yield head, moment.distribution
        except UserError as error:
            complain(error)


def predict(
    model: Annotated[
        str, typer.Argument(help="Folder of a trained model, or one that comes with us: default, default-1.5b-nli.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Sound files, folders of them, or manifests (.jsonl).", metavar="INPUT"),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="The text; where the task has several, name=value for each.")
    ] = None,
    format: Annotated[str, typer.Option(help="table, json, jsonl or csv.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write; the terminal where not given.")] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of each window: a timeline instead of one answer.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(help="Seconds between windows; the window's length where not given.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="With --window and one sound file: picture of the timeline (.png, .svg or .pdf)."),
    ] = None,
    skip_errors: Annotated[
        bool, typer.Option("--skip-errors", help="Go on after a bad input; still exits with 2.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Of a manifest: only the rows of this split.")] = None,
    features: Annotated[Path | None, typer.Option(help="Of a manifest: folder of its features.")] = None,
    audio_root: Annotated[Path | None, typer.Option(help="Of a manifest: folder that its paths start from.")] = None,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(help="Another model of the task, whose answers are averaged with MODEL's; may be repeated."),
    ] = None,
    transcribe: Annotated[
        bool,
        typer.Option("--transcribe", help="Of sound files: write down what is said, for a model of sound and text."),
    ] = False,
    channel: Annotated[
        int | None,
        typer.Option(help="Of sound files: channel to judge, from 0; the mean of all where not given.", min=0),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs computed at once.", min=1)] = 16,
    calibration: Annotated[
        str | None,
        typer.Option(help="temperature, temperature_jsd or dirichlet, as `shala-audio evaluate calibrate` fitted it."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Of a manifest: every Nth row from the Ith on, as I/N, for jobs that `merge` puts together."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Of a manifest: go on after the last batch that a killed job wrote.")
    ] = False,
) -> None:
    """Predict the distribution of human judgement of clips, texts or the rows of a manifest.

    shala-audio predict default clip.wav

    shala-audio predict default --text "Oh no, not again."

    shala-audio predict exp/goemotions/shala --text "Oh no, not again."

    shala-audio predict exp/crema_d/shala *.flac --format jsonl --out predictions.jsonl

    shala-audio predict exp/crema_d/shala recordings --format csv --out predictions.csv

    shala-audio predict exp/crema_d/shala talk.wav --window 4 --hop 2 --picture timeline.png

    accelerate launch --num_processes 4 -m shala_audio predict exp/crema_d/shala data/manifest.jsonl --split test
    --features features --format jsonl --out predictions.jsonl
    """
    if format not in FORMATS:
        raise not_one_of("--format", format, FORMATS)
    if hop is not None and window is None:
        raise UserError("--hop needs --window")
    if window is not None and (text or any(name.endswith(".jsonl") for name in inputs or [])):
        raise UserError("--window makes a timeline of sound files, not of manifests, and takes no --text")
    if picture is not None:
        check_picture(picture, window, inputs or [])
    fields = _text(text or [])
    if not inputs and not fields:
        raise UserError("nothing to predict: name sound files or a manifest, or give --text")
    manifests = [name for name in inputs or [] if name.endswith(".jsonl")]
    if manifests and fields:
        raise UserError("--text: rows of a manifest have their own text; give it with sound files, or alone")
    if transcribe and window is not None:
        raise UserError("--transcribe: of whole sound files, without --window")
    if transcribe and (fields or manifests):
        raise UserError("--transcribe: of sound files without --text; of a manifest, `shala-audio data transcribe`")
    if channel is not None and len(manifests) == len(inputs or []):
        raise UserError("--channel: of sound files; a manifest's rows name theirs in `audio`")
    if not manifests and (split or features or audio_root):
        name = "--split" if split else "--features" if features else "--audio-root"
        raise UserError(f"{name}: of a manifest, and none is named")
    share, launched = parse_shard(shard), launched_shard()
    if share[1] > 1 and len(manifests) < len(inputs or []):
        raise UserError("--shard is for manifests; name sound files to one job")
    if share[1] > 1 and skip_errors:
        raise UserError("--shard and --skip-errors: parts are put together only if no row is missing")
    if launched[1] > 1:
        if len(manifests) != 1 or len(inputs or []) != 1 or format != "jsonl" or out is None or shard is not None:
            raise UserError("several processes predict one manifest, with --format jsonl and --out, without --shard")
        if skip_errors:
            raise UserError("--skip-errors: not with several processes, whose rows are checked to be complete")
        share = launched
    kept = len(manifests) == len(inputs or []) == 1 and format == "jsonl" and out is not None  # batch by batch
    if resume and not kept:
        raise UserError("--resume is for one manifest, with --format jsonl and --out")
    if out is not None and out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it")
    from shala_audio.errors import no_note
    from shala_audio.inference import default
    from shala_audio.inference.ensemble import Ensemble
    from shala_audio.inference.predictor import Predictor

    if not skip_errors:
        for name in inputs or []:
            if not os.path.lexists(name):
                raise UserError(f"{name}: no such file")  # before the model is loaded
    sound = _have_sound(inputs or [])
    folder, *others = (default.part(sound) if name == "default" else name for name in (model, *(ensemble or ())))
    predictor: Predictor
    if others:
        predictor = Ensemble.from_folders([folder, *others], calibration, _device(launched), batch_size=batch_size)
    else:
        predictor = Predictor.from_pretrained(folder, calibration, _device(launched), batch_size=batch_size)
    predictor.note = no_note  # of clips, by their names, below
    bad: list[str] = []

    def complain(error: UserError) -> None:
        if not skip_errors:
            raise error
        bad.append(str(error))
        print(f"shala-audio: error: {error}", file=sys.stderr)

    def batches(name: str, done: Container[str] = ()) -> Iterator[list[Prediction]]:
        try:
            rows = ManifestRows(name, split, share)
            yield from _manifest(predictor, rows, features, audio_root, complain if skip_errors else None, done)
        except UserError as error:
            complain(error)

    def everything() -> Iterator[Prediction]:
        for name in manifests:
            yield from chain.from_iterable(batches(name))
        clips = sound_files([name for name in inputs or [] if not name.endswith(".jsonl")], complain)
        if window is not None:
            yield from timelines(predictor, clips, window, hop or window, complain, picture, channel)
        else:
            yield from _clips(predictor, clips, _words(predictor) if transcribe else fields, complain, channel)
        if not inputs:
            yield {"id": "text"}, _of_text(predictor, fields)

    unparsed = 0  # by a job that was killed
    if kept:
        assert out is not None
        of = identity(predictor, manifests[0], features, audio_root, calibration)
        of |= {"split": split, "share": share}
        try:
            progress = Progress(part_of(out, launched), of, resume)
        except UserError as error:
            error.one_process = launched[1] > 1
            raise
        unparsed = progress.unparsed
        missing = ([record(*answer) for answer in batch] for batch in batches(manifests[0], progress.done))
        if launched[1] > 1:
            write_together(
                lambda: progress.finish(missing, lambda: predictor.unparsed), manifests[0], split, out, launched
            )
        else:
            progress.finish(missing, lambda: predictor.unparsed)
        progress.clear()  # after the first process has put all parts together
    else:
        write(everything(), format, out)
    unparsed += predictor.unparsed
    if unparsed:
        print(f"{unparsed} answers did not parse and count as uniform", file=sys.stderr)
    if bad:
        print(f"{len(bad)} skipped: the errors above", file=sys.stderr)
        raise typer.Exit(2)


def _have_sound(inputs: list[str]) -> bool:
    """Whether the inputs, sound files or manifests, have sound; a manifest's first row tells."""
    from shala_audio.manifest import iterate_manifest

    manifests = [name for name in inputs if name.endswith(".jsonl")]
    if len(manifests) < len(inputs):
        return True
    return any(row.audio is not None for name in manifests for row in islice(iterate_manifest(name), 1))


def _text(given: list[str]) -> str | dict[str, str]:
    """A text alone, or text fields by name.

    >>> _text(["Oh no."]), _text(["premise=It rains.", "hypothesis=It is wet."])
    ('Oh no.', {'premise': 'It rains.', 'hypothesis': 'It is wet.'})
    """
    pairs = [one.partition("=") for one in given]
    if len(given) == 1 and not (pairs[0][1] and pairs[0][0].isidentifier()):
        return given[0]
    if wrong := [one for one, (name, sign, _) in zip(given, pairs, strict=True) if not sign or not name.isidentifier()]:
        raise UserError(f"--text {wrong[0]!r}: of several, write each as name=value")
    return {name: value for name, _, value in pairs}


def _of_text(predictor: Any, fields: str | dict[str, str]) -> LabelDistribution | LabelRates:
    """A text's distribution; or the rates of all labels, where the model is asked about one at a time and the text names none."""
    from shala_audio.task import ASKED

    if predictor.task.asked and (isinstance(fields, str) or ASKED not in fields):
        rates: LabelRates = predictor.predict_rates([fields])[0]
        return rates
    answer: LabelDistribution = predictor.predict(text=fields)
    return answer


def _manifest(
    predictor: Any,
    rows: ManifestRows,
    features: Path | None,
    audio_root: Path | None,
    complain: Any,
    done: Container[str],
) -> Iterator[list[Prediction]]:
    from shala_audio.audio.features import FeatureStore

    store, total = None, rows.count
    wanted: Iterable[Any] = rows
    if features is not None and predictor.task.has_audio:
        model = predictor.model
        store = FeatureStore(features, model.model_config.encoder_identity(model.encoder_sha256))
        store.check(rows)
        for row in rows if complain else []:
            if row.id not in store:
                complain(UserError(f"row {row.id}: {features} has no features of its sound"))
                total -= 1
        wanted = (row for row in rows if row.id in store) if complain else rows
    for batch in predictor.predict_batches(wanted, store, audio_root, total, complain, done):
        yield [({"id": identity}, distribution) for identity, distribution in batch]


def _device(launched: Shard) -> str | None:
    """The device of a process; its own one where there are several."""
    if launched[1] == 1:
        return None
    import torch
    from accelerate import PartialState

    # Without being told, accelerate takes processes without GPUs for one each. The slowest is waited for.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=30))
    return str(state.device)


def _words(predictor: Any) -> Callable[[str, Any], dict[str, str]]:
    """What writes down the words of a clip, in the text field that the model's task has."""
    from shala_audio.inference.transcribe import Transcriber

    names = predictor.task.text_fields()
    if len(names) != 1 or predictor.task.modality != "audio+text":
        raise UserError(f"--transcribe: task {predictor.task.name} does not take sound and one text")
    transcriber = Transcriber()

    def heard(name: str, samples: Any) -> dict[str, str]:
        said = transcriber.transcribe([samples])[0]
        noted(name)(f"heard ({said.language}): {said.text or 'no words'}")
        return {names[0]: said.text} if said.text else {}  # as of rows of training of which nothing was heard

    return heard


def _clips(
    predictor: Any,
    names: Iterable[str],
    fields: str | dict[str, str] | Callable[[str, Any], dict[str, str]],
    complain: Any,
    channel: int | None,
) -> Iterator[Prediction]:
    """Clips a batch at a time; a bad one is complained of and does not spoil its batch."""
    from shala_audio.audio.io import SAMPLE_RATE, read_sound, remarks
    from shala_audio.audio.speech import speech_remark

    source, read = iter(names), deque[str]()

    def readable(batch: list[str]) -> Iterator[Any]:
        for name in batch:
            try:
                samples = read_sound(name, channel=channel, note=noted(name))
                for remark in filter(None, [*remarks(samples), speech_remark(samples)]):
                    noted(name)(remark)
                clip = samples, SAMPLE_RATE
            except UserError as error:
                complain(error)
            else:
                read.append(name)
                yield clip, fields(name, samples) if callable(fields) else fields

    while batch := list(islice(source, predictor.batch_size)):
        for distribution in predictor.predict_batch(readable(batch)):
            yield {"id": read.popleft()}, distribution
