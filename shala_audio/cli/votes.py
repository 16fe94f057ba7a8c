"""`shala-audio votes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.cli import vote_options as given
from shala_audio.errors import UserError


def votes(
    table: given.Votes,
    out: Annotated[Path, typer.Option(help="Folder for the manifest, the task, the split and the summary.")],
    source: given.From = "csv",
    item: given.Item = None,
    label: given.LabelColumn = None,
    rater: given.Rater = None,
    speaker: given.Speaker = None,
    text: given.TextColumn = None,
    split: given.Split = None,
    clips: given.Clips = None,
    items: given.Items = None,
    task: Annotated[
        str | None, typer.Option(help="Task whose labels were chosen: a name or a YAML file; made where not given.")
    ] = None,
    leave_out: given.LeaveOut = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    max_rows: Annotated[
        int | None, typer.Option(help="Keep so many rows, the same share of every split.", min=1)
    ] = None,
) -> None:
    """Make a manifest of your own corpus from people's votes, with a task file to edit and a split.

    shala-audio votes votes.csv --item file --label emotion --rater who --clips recordings --out data

    shala-audio votes project-1.json --from label-studio --clips recordings --out data

    shala-audio votes annotation_output --from potato --items items.json --text text --out data
    """
    from shala_audio.cli.prepare import show_summary
    from shala_audio.data.prepare import write_prepared
    from shala_audio.data.vote_table import Columns, prepare, task_of, write_task
    from shala_audio.tasks import load_task

    if task is None and (out / "task.yaml").exists():
        raise UserError(f"{out / 'task.yaml'} is there, and perhaps edited: name it with --task, or remove it")
    columns = Columns(item or "", label or "", rater, speaker, text, split)
    found, left_out = given.read_votes(table, source, columns, clips, items, leave_out)
    made = load_task(task) if task else task_of(out.resolve().name, found, given.modality_of(clips, text))
    if made.has_audio != (clips is not None):
        raise UserError(f"task {made.name} takes {made.modality}; {'name' if made.has_audio else 'leave out'} --clips")
    caveat = "The split is ours, by speaker." if speaker else "The split is ours, by item."
    prepared = prepare(found, left_out, made, clips, seed, "" if split else caveat)
    summary = write_prepared(prepared, made, out, seed, max_rows)
    if task is None:
        write_task(out / "task.yaml", made)
        print(out / "task.yaml")
    show_summary(summary, out)
