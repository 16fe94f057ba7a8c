"""`shala-audio votes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def votes(
    table: Annotated[Path, typer.Argument(help="CSV file with a line for every rating.", metavar="VOTES.CSV")],
    out: Annotated[Path, typer.Option(help="Folder for the manifest, the task, the split and the summary.")],
    item: Annotated[str, typer.Option(help="Column of what was judged: the clip's file, or any name of a text.")],
    label: Annotated[str, typer.Option(help="Column of the choice.")],
    rater: Annotated[
        str | None, typer.Option(help="Column of who chose; several choices of a rater share one vote.")
    ] = None,
    speaker: Annotated[str | None, typer.Option(help="Column of the speaker, who stays in one split.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text, or of the clip's transcript.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of the split; made anew where not given.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Folder of the sound files.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Task whose labels were chosen: a name or a YAML file; made where not given.")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="A choice that is no label, such as 'unsure'.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Make a manifest of your own corpus from a CSV file of votes, with a task file to edit and a split.

    Example: shala-audio votes votes.csv --item file --label emotion --rater who --clips recordings --out data
    """
    import yaml

    from shala_audio.cli.prepare import show_summary
    from shala_audio.data.prepare import write_prepared
    from shala_audio.data.vote_table import Columns, prepare, read_ratings, task_of
    from shala_audio.files import write_text
    from shala_audio.tasks import load_task

    if clips is None and text is None:
        raise UserError("--clips or --text: say where the sound is, or which column is the text")
    if clips is not None and not clips.is_dir():
        raise UserError(f"{clips}: no such folder")
    if task is None and (out / "task.yaml").exists():
        raise UserError(f"{out / 'task.yaml'} is there, and perhaps edited: name it with --task, or remove it")
    items, left_out = read_ratings(table, Columns(item, label, rater, speaker, text, split), leave_out or ())
    if task is None:
        modality = "text" if clips is None else "audio+text" if text else "audio"
        made = task_of(out.resolve().name, items, modality)
    else:
        made = load_task(task)
    if made.has_audio != (clips is not None):
        raise UserError(f"task {made.name} takes {made.modality}; {'name' if made.has_audio else 'leave out'} --clips")
    caveat = "The split is ours, by speaker." if speaker else "The split is ours, by item."
    prepared = prepare(items, left_out, made, clips, seed, "" if split else caveat)
    summary = write_prepared(prepared, made, out, seed)
    if task is None:
        write_text(
            out / "task.yaml",
            "# Made from the votes: give each label the word that the model shall answer, and ask in your own words.\n"
            + yaml.safe_dump(made.to_dict(), sort_keys=False, allow_unicode=True),
        )
        print(out / "task.yaml")
    show_summary(summary, out)
