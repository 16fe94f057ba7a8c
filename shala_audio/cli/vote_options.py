"""Options by which a lab's own votes are read, shared by `votes` and `new-recipe`, and the reading itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from shala_audio.errors import UserError

Votes = Annotated[
    Path,
    typer.Argument(
        help="CSV file with a line for every rating, Label Studio's JSON export, or Potato's annotation_output folder.",
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
        "--label", help="Column of the choice. Of an export, the control or scheme; found if there is but one."
    ),
]
Rater = Annotated[str | None, typer.Option(help="Column of who chose; several choices of a rater share one vote.")]
Speaker = Annotated[str | None, typer.Option(help="Column of the speaker, who stays in one split.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text, or of the clip's transcript.")]
Split = Annotated[str | None, typer.Option(help="Column of the split; made anew where not given.")]
Clips = Annotated[Path | None, typer.Option(help="Folder of the sound files.")]
Items = Annotated[Path | None, typer.Option(help="Potato: the data file that was annotated, with its texts or clips.")]
LeaveOut = Annotated[list[str] | None, typer.Option(help="A choice that is no label, such as 'unsure'.")]


def read_votes(
    table: Path, source: str, columns: Any, clips: Path | None, items: Path | None, leave_out: list[str] | None
) -> tuple[dict[str, Any], Counter[str]]:
    """What was judged, and what was left out by reason: see `vote_table.gather`.

    Raises:
        UserError: the sound or the texts are not named or not there, or the votes cannot be read.
    """
    from shala_audio.data.exports import export_columns, ratings
    from shala_audio.data.vote_table import gather

    if clips is None and columns.text is None:
        raise UserError("--clips or --text: say where the sound is, or which column is the text")
    if clips is not None and not clips.is_dir():
        raise UserError(f"{clips}: no such folder")
    left_out: Counter[str] = Counter()
    found = ratings(table, source, columns, items, left_out)
    columns = columns if source == "csv" else export_columns(columns)
    return gather(found, columns, left_out, leave_out or ()), left_out


def modality_of(clips: Path | None, text: str | None) -> str:
    """The modality of a task over what was named."""
    return "text" if clips is None else "audio+text" if text else "audio"
