"""`shala-audio data prepare|votes|validate|convert|raters|labels`: manifests of corpora, and of your own votes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shala_audio.cli.evaluate import TaskOption
from shala_audio.corpora.prepare import SOURCES
from shala_audio.errors import UserError, nearest, not_one_of

if TYPE_CHECKING:
    from shala_audio.manifest import Row
    from shala_audio.task import Task

app = typer.Typer(help="Manifests: of known corpora, of your own votes; checked, and converted.", no_args_is_help=True)

Votes = Annotated[
    Path,
    typer.Argument(
        help="Table of votes (CSV or .xlsx), Label Studio's JSON export, or Potato's annotation_output folder.",
        metavar="VOTES",
    ),
]
From = Annotated[str, typer.Option("--from", help="csv, label-studio or potato.")]
Item = Annotated[
    str | None,
    typer.Option(
        help="Column of what was judged: the clip's file, or any name of a text. An export's: found where not given."
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label",
        help="Column of the choice; with --layout wide or counts, columns with commas between. Of an export, the control or "
        "scheme; found if there is but one.",
    ),
]
Rater = Annotated[
    str | None, typer.Option(help="Column of who chose. Label Studio: key of who, completed_by if not given.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        help="Of a table: long (a line for each rating), wide (a column for each rater) or counts (a column for each label); "
        "guessed, and told, where not given."
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        "--choices-separator",
        help="What stands between several labels in one cell, such as ','; '' where a label holds it.",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(help="Of a CSV file, such as cp1251 or shift_jis; UTF-8, UTF-16 and cp1252 are recognised."),
]
Several = Annotated[
    str,
    typer.Option(
        help="Raters who name several labels for one item: refuse; split, their vote is shared; or leave-out."
    ),
]
Channel = Annotated[
    int | None, typer.Option(help="Channel of the sound, from 0; the mean of all where not given.", min=0)
]
Speaker = Annotated[str | None, typer.Option(help="Column of the speaker, who stays in one split.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text, or of the clip's transcript.")]
Split = Annotated[str | None, typer.Option(help="Column of the split; made anew where not given.")]
Clips = Annotated[Path | None, typer.Option(help="Folder of the sound files.")]
Items = Annotated[Path | None, typer.Option(help="Potato: the data file that was annotated, with its texts or clips.")]
LeaveOut = Annotated[list[str] | None, typer.Option(help="A choice that is no label, such as 'unsure'.")]


def say(remark: str) -> None:
    """Print a note."""
    print(f"note: {remark}", file=sys.stderr)


def read_votes(
    path: Path,
    source: str,
    columns: Any,
    clips: Path | None,
    items: Path | None,
    leave_out: list[str] | None,
    layout: str | None,
    separator: str | None,
    several: str,
    encoding: str | None,
    channel: int | None,
    known: tuple[str, ...] = (),
) -> tuple[dict[str, Any], Counter[str]]:
    """What was judged, and what was left out by reason: see `corpora.ratings.gather`.

    Raises:
        UserError: the sound or the texts are not named or not there, or the votes cannot be read.
    """
    from shala_audio.corpora.exports import label_studio_ratings, potato_ratings
    from shala_audio.corpora.ratings import gather, table_ratings

    if clips is None and columns.text is None:
        raise UserError("--clips or --text: say where the sound is, or which column is the text")
    if clips is not None and not clips.is_dir():
        raise UserError(f"{clips}: no such folder")
    if channel is not None and clips is None:
        raise UserError("--channel: of sound, and no --clips are named")
    if source not in SOURCES_OF_VOTES:
        raise not_one_of("--from", source, SOURCES_OF_VOTES)
    if items is not None and source != "potato":
        raise UserError("--items: of potato alone")
    of_tables = {"--layout": layout, "--choices-separator": separator, "--encoding": encoding}
    if source != "csv" and (given := [option for option, value in of_tables.items() if value is not None]):
        raise UserError(f"{given[0]}: of a table (--from csv) alone")
    left_out: Counter[str] = Counter()
    if source == "label-studio":
        found = label_studio_ratings(path, columns, left_out, say)
    elif source == "potato":
        found = potato_ratings(path, columns, items, left_out, say)
    elif not columns.item:
        raise UserError(f"{path}: name the column of what was judged with --item")
    else:
        found = table_ratings(path, columns, left_out, layout, separator, encoding, say)
    is_table = source == "csv"
    return gather(found, left_out, leave_out or (), several, known, is_table, separator is not None, say), left_out


def modality_of(clips: Path | None, text: str | None) -> str:
    """The modality of a task over what was named."""
    return "text" if clips is None else "audio+text" if text else "audio"


SOURCES_OF_VOTES = ("csv", "label-studio", "potato")
CORPORA = ("chaosnli", "goemotions", "lewidi", "crema_d", "msp_podcast", "mini", "mini_text")


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help=f"One of {', '.join(CORPORA)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest, the split and the summary.")],
    source: Annotated[Path | None, typer.Option(help="The corpus as it was downloaded (not for mini).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split, where the corpus has none.")] = 0,
    max_rows: Annotated[
        int | None, typer.Option(help="Keep at most this many rows, the same share of every split.", min=1)
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="ChaosNLI, CREMA-D: fold of a cross-validation, 0 to 4, as the test split.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="CREMA-D: emo_superb for the speaker folds of EMO-SUPERB; ours where not given.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="ChaosNLI: snli, mnli or both; snli where not given. LeWiDi: name of the corpus, as its files have it."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="MSP-Podcast: msp_podcast, msp_podcast_9 or msp_podcast_4. LeWiDi: whose labels were chosen, a name or a YAML "
            "file; --part where not given."
        ),
    ] = None,
    secondary: Annotated[
        float, typer.Option(help="MSP-Podcast: share of a rater's vote that the secondary choices get, 0 to below 1.")
    ] = 0.0,
) -> None:
    """Make a manifest, a split that leaks no speaker, and a summary.

    Example: shala-audio data prepare crema_d --source CREMA-D --out data
    """
    from shala_audio.corpora import chaosnli, crema_d, goemotions, lewidi, mini, msp_podcast
    from shala_audio.corpora.prepare import write_prepared
    from shala_audio.io import write_text
    from shala_audio.task import load_task

    if fold is not None and corpus not in ("chaosnli", "crema_d"):
        raise UserError(f"--fold: {corpus} has a split of its own")
    if split is not None and corpus != "crema_d":
        raise UserError("--split: of crema_d alone")
    if part is not None and corpus not in ("chaosnli", "lewidi"):
        raise UserError("--part: of chaosnli and lewidi alone")
    if corpus == "lewidi" and part is None:
        raise UserError(f"--part: name the corpus, such as {', '.join(lewidi.PARTS)}")
    if task and corpus not in ("msp_podcast", "lewidi"):
        raise UserError("--task: of msp_podcast and lewidi alone")
    if corpus != "msp_podcast" and secondary:
        raise UserError("--secondary: of msp_podcast alone")
    if corpus == "lewidi":
        part = lewidi.part_name(str(part))
    chosen = task or (part if corpus == "lewidi" else corpus)
    if corpus in ("mini", "mini_text"):
        prepared = mini.prepare(out, seed, rows=max_rows or mini.ROWS, text=corpus == "mini_text")
        max_rows = None
    else:
        if corpus not in CORPORA:
            raise UserError(f"{corpus}: no such corpus; known are {', '.join(CORPORA)}{nearest(corpus, CORPORA)}")
        licence, address = SOURCES[corpus]
        if source is None:
            raise UserError(f"--source: name the folder of {corpus}, as its owners give it ({address}; {licence})")
        if not source.is_dir():
            raise UserError(f"{source}: no such folder")
        print(f"{corpus}: {licence}; from {address}", file=sys.stderr)
        if corpus == "chaosnli":
            part = part or "snli"
            prepared = chaosnli.prepare(source, seed, part, fold)
        elif corpus == "goemotions":
            prepared = goemotions.prepare(source, seed)
        elif corpus == "lewidi":
            prepared = lewidi.prepare(source, str(part), load_task(str(chosen)))
        elif corpus == "crema_d":
            prepared = crema_d.prepare(source, seed, fold, split)
        else:
            prepared = msp_podcast.prepare(source, seed, task or corpus, secondary)
    options: dict[str, Any] = {"part": part, "fold": fold, "split": split, "secondary": secondary or None}
    summary = write_prepared(prepared, load_task(str(chosen)), out, seed, max_rows, **options)
    if task is not None and Path(task).is_file():  # so that other commands find it
        write_text(out / "task.yaml", Path(task).read_text(encoding="utf-8"))
    show_summary(summary, out)


def show_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what a prepared corpus holds, and where its manifest is."""
    console = Console(stderr=True)
    table = Table("split", "rows", "without votes", "speakers", "also in train", "raters per row")
    for split, found in summary["splits"].items():
        raters = found.get("raters_per_row")
        shown = f"{raters['min']:g} to {raters['max']:g}, mean {raters['mean']:.1f}" if raters else "–"
        table.add_row(
            split,
            str(found["rows"]),
            str(found["without_votes"]),
            str(found["speakers"]),
            str(found.get("speakers_also_in_train", "")),
            shown,
        )
    console.print(table)
    for reason, count in summary["left_out"].items():
        names = summary.get("left_out_items", {}).get(reason)
        if count:
            console.print(f"left out: {count:g} {reason}" + (f", such as {names[0]}" if names else ""), markup=False)
    if crossing := summary["twins_across_splits"]:
        one, other = crossing[0]
        shown = f"{len(crossing)} items have the same text, or are of the same file, in two splits, such as {one} and {other}"
        console.print(f"note: {shown}; the split is kept as it was given", markup=False)
    console.print(f"{summary['caveat']} Licence: {summary['licence']}.", highlight=False)
    print(out / "manifest.jsonl")


@app.command()
def votes(
    table: Votes,
    out: Annotated[Path, typer.Option(help="Folder for the manifest, the task, the split and the summary.")],
    source: From = "csv",
    item: Item = None,
    label: LabelColumn = None,
    rater: Rater = None,
    speaker: Speaker = None,
    text: TextColumn = None,
    split: Split = None,
    clips: Clips = None,
    items: Items = None,
    task: Annotated[
        str | None, typer.Option(help="Task whose labels were chosen: a name or a YAML file; made where not given.")
    ] = None,
    leave_out: LeaveOut = None,
    layout: Layout = None,
    choices_separator: Separator = None,
    several: Several = "refuse",
    encoding: Encoding = None,
    channel: Channel = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    max_rows: Annotated[
        int | None, typer.Option(help="Keep at most this many rows, the same share of every split.", min=1)
    ] = None,
) -> None:
    """Make a manifest of your own corpus from people's votes, with a task file to edit and a split.

    shala-audio data votes votes.csv --item file --label emotion --rater who --clips recordings --out data

    shala-audio data votes project-1.json --from label-studio --clips recordings --out data

    shala-audio data votes annotation_output --from potato --items items.json --text text --out data
    """
    from shala_audio.corpora.prepare import write_prepared
    from shala_audio.corpora.ratings import Columns, prepare, task_of, write_task
    from shala_audio.task import load_task

    if task is None and (out / "task.yaml").exists():
        raise UserError(f"{out / 'task.yaml'} is there, and perhaps edited: name it with --task, or remove it")
    columns = Columns(item or "", label or "", rater, speaker, text, split)
    asked = load_task(task) if task else None
    known = tuple(word for label in asked.labels for word in (label.name, label.word)) if asked else ()
    found, left_out = read_votes(
        table, source, columns, clips, items, leave_out, layout, choices_separator, several, encoding, channel, known
    )
    made = asked or task_of(out.resolve().name, found, modality_of(clips, text))
    if made.has_audio != (clips is not None):
        raise UserError(f"task {made.name} takes {made.modality}; {'name' if made.has_audio else 'leave out'} --clips")
    named = rater is not None or source != "csv"
    caveat = "The split is ours, by speaker." if speaker else "The split is ours, by item."
    prepared = prepare(found, left_out, made, clips, seed, "" if split else caveat, channel, say, named)
    summary = write_prepared(prepared, made, out, seed, max_rows, clips if split else None)  # ours has none
    if task is None:
        write_task(out / "task.yaml", made)
        print(out / "task.yaml")
    show_summary(summary, out)


@app.command()
def validate(
    manifest: Annotated[Path, typer.Argument(help="Manifest to check.")],
    audio_root: Annotated[Path | None, typer.Option(help="Folder of the sound; without it, sound is not read.")] = None,
    task: TaskOption = None,
    good: Annotated[
        Path | None, typer.Option(help="Write a manifest of the rows without a fault, and exit with 0.")
    ] = None,
) -> None:
    """Check every row: its fields, its votes, its sound, and that no speaker is in two splits.

    Prints a line for each fault and exits with 2 if there is any. What is odd but can be used, such as clipped sound, channels
    that cancel out, or the same sound or text in two splits, is printed as a note.

    Example: shala-audio data validate data/manifest.jsonl --audio-root CREMA-D
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    from shala_audio.corpora.splits import check_speakers, crossing_twins
    from shala_audio.manifest import write_manifest

    faults = 0

    def fault(line: str) -> None:
        nonlocal faults
        faults += 1
        print(line, file=sys.stderr)

    rows: dict[str, tuple[str, Row]] = {}
    for where, row in _valid_rows(manifest, task, fault):
        if row.id in rows:
            fault(f"{where}: id {row.id!r} appears twice")
        else:
            rows[row.id] = where, row
    bad: set[str] = set()
    notes = 0
    if audio_root is not None:
        with_sound = [(where, row) for where, row in rows.values() if row.audio is not None]
        with ThreadPoolExecutor() as pool:
            reports = pool.map(lambda item: _listen(item[1], audio_root), with_sound)
            for (where, row), (reason, found) in tqdm(
                zip(with_sound, reports, strict=True), total=len(with_sound), unit="clip", desc="sound", disable=None
            ):
                for note in found:
                    notes += 1
                    print(f"note: {where}: {note}", file=sys.stderr)
                if reason:
                    bad.add(row.id)
                    fault(f"{where}: {reason}")
    kept = [row for _, row in rows.values() if row.id not in bad]
    try:
        check_speakers([row for row in kept if row.votes])
    except UserError as error:
        fault(f"{manifest}: {error}")
        if good is not None:
            raise UserError(f"--good: {error}; no choice of rows mends that") from None
    for one, other in crossing_twins(kept, audio_root):
        notes += 1
        what = "sound" if one.audio is not None else "text"
        print(
            f"note: {manifest}: {one.id} ({one.split}) and {other.id} ({other.split}) have the same {what}",
            file=sys.stderr,
        )
    print(f"{len(rows)} rows, {faults} faults" + (f", {notes} notes" if notes else ""))
    if good is not None:
        write_manifest(good, kept)
        print(f"{good}: {len(kept)} rows; {faults} left out")
    elif faults:
        raise typer.Exit(2)


def _valid_rows(manifest: Path, task: str | None, fault: Callable[[str], None]) -> Iterator[tuple[str, Row]]:
    """Rows whose fields and votes are right, with their place; the others are told to `fault`."""
    from functools import cache

    from shala_audio.io import readable
    from shala_audio.manifest import row_from_json
    from shala_audio.task import load_task, task_of_rows
    from shala_audio.votes import to_distribution

    labels = cache(lambda name: (load_task(task) if task else task_of_rows(name, manifest)).label_names)
    with readable(manifest, "no such manifest"):
        lines = manifest.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        where = f"{manifest}:{number}"
        try:
            row = row_from_json(line, where)
            if row.votes:
                to_distribution(row.votes, labels(row.task))
        except UserError as error:
            fault(str(error) if str(error).startswith(str(manifest)) else f"{where}: {error}")
        else:
            yield where, row


def _listen(row: Row, root: Path) -> tuple[str | None, list[str]]:
    """Why a row's sound cannot be used, if so, and what is odd about it."""
    from shala_audio.audio.io import read_row_audio, remarks
    from shala_audio.audio.speech import speech_remark

    assert row.audio is not None
    found: list[str] = []
    try:
        samples = read_row_audio(row.audio, root, found.append)
        found += filter(None, [*remarks(samples), speech_remark(samples)])
        return None, [f"{row.audio.path}: {remark}" for remark in found]
    except UserError as error:
        return str(error), []


@app.command()
def transcribe(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose sound is written down.")],
    out: Annotated[Path, typer.Option(help="Manifest to write, with a transcript in each row's text.")],
    audio_root: Annotated[Path, typer.Option(help="Folder that the manifest's paths start from.")],
    model: Annotated[
        str, typer.Option(help="Whisper: a default model's name, a folder or a hub id.")
    ] = "whisper-base-asr",
    language: Annotated[str | None, typer.Option(help="Such as en; recognised in each clip if not given.")] = None,
    field: Annotated[str, typer.Option(help="Name of the text field.")] = "transcript",
) -> None:
    """Write down what is said, in rows that have no transcript, for models of sound and text.

    What was heard is kept beside OUT as it comes, so that an interrupted job goes on from there. Silence has no words.

    Example: shala-audio data transcribe data/manifest.jsonl --audio-root recordings --out data/heard.jsonl
    """
    from shala_audio.inference.transcribe import transcribe_rows
    from shala_audio.manifest import read_manifest, write_manifest

    rows = transcribe_rows(
        read_manifest(manifest), audio_root, out.with_name(f"{out.name}.heard"), model, language, field
    )
    write_manifest(out, rows)
    print(f"{out}: {sum(field in row.text for row in rows)} of {len(rows)} rows have a transcript")


@app.command()
def raters(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose rows say who chose what (`extra.raters`).")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest of single raters, and for its task.")],
    task: TaskOption = None,
    examples: Annotated[int, typer.Option(help="Other answers of the rater before each question.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Of their draw.")] = 0,
) -> None:
    """Make a row for each rater of each row, with other answers of that rater before the question.

    A model of them says what a rater would answer. `evaluate raters` scores that, and puts the raters of a row together.

    Example: shala-audio data raters data/manifest.jsonl --out data/raters
    """
    from shala_audio.corpora.raters import by_rater, with_rater
    from shala_audio.manifest import rows_and_task

    rows, asked = rows_and_task(manifest, task)
    try:
        found = by_rater(rows, asked, examples, seed)
    except UserError as error:
        raise UserError(f"{manifest}: {error}") from None
    items = _write_derived(manifest, out, found, with_rater(asked), len(rows))
    people = len({row.extra["rater"] for row in found})
    print(f"{out}: {len(found)} answers of {people} raters to {items} rows")


@app.command()
def labels(
    manifest: Annotated[Path, typer.Argument(help="Manifest whose rows say who chose what (`extra.raters`).")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest of single labels, and for its task.")],
    task: TaskOption = None,
) -> None:
    """Make a yes-or-no row for each label of each row, where raters may choose several labels.

    A model of them says what share of people would choose each label. `evaluate labels` scores that, and puts the labels of a
    row together.

    Example: shala-audio data labels data/manifest.jsonl --out data/labels
    """
    from shala_audio.corpora.single_labels import by_label, yes_or_no
    from shala_audio.manifest import rows_and_task

    rows, asked = rows_and_task(manifest, task)
    try:
        found = by_label(rows, asked)
    except UserError as error:
        raise UserError(f"{manifest}: {error}") from None
    items = _write_derived(manifest, out, found, yes_or_no(asked), len(rows))
    print(f"{out}: {len(found)} questions about {items} rows")


def _write_derived(source: Path, out: Path, rows: list[Row], task: Task, of: int) -> int:
    """A manifest and the task of its rows, in a folder that is not the source's; how many of `of` rows they were made from.

    Raises:
        UserError: it is.
    """
    import yaml

    from shala_audio.io import write_text
    from shala_audio.manifest import write_manifest

    if out.resolve() == source.resolve().parent:
        raise UserError(f"--out {out}: is the folder of {source}; name another one")
    write_manifest(out / "manifest.jsonl", rows)
    write_text(out / "task.yaml", yaml.safe_dump(task.to_dict(), sort_keys=False, allow_unicode=True))
    items = len({row.extra["item"] for row in rows})
    if silent := of - items:
        print(f"{silent} rows do not say who chose what, and are left out", file=sys.stderr)
    return items


FORMATS = ("lhotse", "datasets")


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A manifest, or a folder of Lhotse's manifests or of a saved dataset.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write (--to), or manifest to write (--from).")],
    to: Annotated[str | None, typer.Option(help="lhotse or datasets: what to make of a manifest.")] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", help="lhotse or datasets: what to make a manifest of.")
    ] = None,
    audio_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the sound; a dataset's is written there."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of rows that name none; a name or a YAML file.")] = None,
) -> None:
    """Turn manifests into Lhotse's or Hugging Face `datasets`, and back.

    shala-audio data convert data/manifest.jsonl --to lhotse --audio-root CREMA-D --out lhotse

    shala-audio data convert data/manifest.jsonl --to datasets --audio-root CREMA-D --out dataset

    shala-audio data convert lhotse --from lhotse --task crema_d --out data/manifest.jsonl
    """
    from shala_audio.corpora import hf_datasets, lhotse
    from shala_audio.manifest import rows_and_task, write_manifest
    from shala_audio.task import load_task

    format = to or source_format
    if (to is None) == (source_format is None):
        raise UserError("say --to lhotse or datasets of a manifest, or --from lhotse or datasets to make one")
    if format not in FORMATS:
        raise not_one_of("--to" if to else "--from", str(format), FORMATS)
    if to is not None:
        rows, asked = rows_and_task(source, task)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already, and not empty")
        if to == "lhotse":
            if audio_root is None:
                raise UserError("--audio-root: name the folder of the sound")
            recordings, supervisions = lhotse.to_lhotse(rows, audio_root, out)
            print(f"{out}: {recordings} recordings, {supervisions} supervisions")
        else:
            counts = hf_datasets.to_datasets(rows, asked.label_names, audio_root, out)
            print(f"{out}: {', '.join(f'{count} {split}' for split, count in counts.items())}")
        return
    name = load_task(task).name if task else None
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if source_format == "lhotse":
        write_manifest(out, lhotse.from_lhotse(source, name, audio_root))
    else:
        write_manifest(out, hf_datasets.from_datasets(source, name, audio_root))
    print(out)
