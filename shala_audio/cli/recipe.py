"""`shala-audio recipe new`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from shala_audio.cli import data as given
from shala_audio.errors import UserError

app = typer.Typer(help="Recipes of your own.", no_args_is_help=True)


@app.command("new")
def new_recipe(
    name: Annotated[str, typer.Argument(help="Of the recipe: letters, digits and _.")],
    table: given.Votes,
    source: given.From = "csv",
    item: given.Item = None,
    label: given.LabelColumn = None,
    rater: given.Rater = None,
    speaker: given.Speaker = None,
    text: given.TextColumn = None,
    split: given.Split = None,
    clips: given.Clips = None,
    items: given.Items = None,
    leave_out: given.LeaveOut = None,
    layout: given.Layout = None,
    choices_separator: given.Separator = None,
    several: given.Several = "refuse",
    encoding: given.Encoding = None,
    channel: given.Channel = None,
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes, in a clone of the toolkit.")] = Path("recipes"),
) -> None:
    """Make a recipe of your own corpus, from people's votes and a folder of clips or a column of texts.

    shala-audio recipe new lab corpus/votes.csv --item file --label emotion --rater who --speaker speaker --clips corpus/clips

    recipes/lab/run.sh --corpus_root corpus
    """
    from shala_audio.corpora.ratings import Columns, task_of, write_task

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(f"{name!r}: a recipe's name is letters, digits and _, and begins with a letter")
    if not (recipes / "TEMPLATE" / "cmd.sh").is_file():
        raise UserError(
            f"{recipes}: has no TEMPLATE/cmd.sh; go to a clone of shala-audio, or name its recipes with --recipes"
        )
    target = recipes / name
    if target.exists():
        raise UserError(f"{target}: is there already; choose another name")
    columns = Columns(item or "", label or "", rater, speaker, text, split)
    found, _ = given.read_votes(
        table, source, columns, clips, items, leave_out, layout, choices_separator, several, encoding, channel
    )
    modality = given.modality_of(clips, text)
    task = task_of(name, found, modality)

    # Everything is named from the one folder that holds it all, so that the recipe works wherever that lies.
    named = [path.resolve() for path in (table.parent, clips, items.parent if items else None) if path is not None]
    root = Path(os.path.commonpath(named))
    named_by = {
        "--from": source,
        "--item": item,
        "--label": label,
        "--rater": rater,
        "--speaker": speaker,
        "--text": text,
        "--layout": layout,
        "--choices-separator": choices_separator,
        "--several": several if several != "refuse" else None,
        "--encoding": encoding,
        "--channel": None if channel is None else str(channel),
    }
    options = [
        part
        for key, value in {**named_by, "--split": split}.items()
        if value is not None
        for part in (key, shlex.quote(value))
    ]
    for value in leave_out or ():
        options += ["--leave-out", shlex.quote(value)]
    for key, path in (("--clips", clips), ("--items", items)):
        if path is not None:
            options += [key, '"$root"/' + _below(root, path)]
    fields = {
        "name": name,
        "modality": modality,
        "table": _below(root, table),
        "audio_dir": _below(root, clips) if clips is not None and clips.resolve() != root else "",
        "options": " ".join(options),
        "command": _shown(name, table, options, root),
        "holds": ", ".join(f"`{_below(root, path)}`" for path in (table, clips, items) if path is not None),
    }
    beside = recipes / f".{name}.{os.getpid()}.tmp"
    try:
        _write(beside, recipes, fields)
        write_task(beside / "task.yaml", task)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(
        f"{target / 'task.yaml'}: {len(task.labels)} labels ({', '.join(task.label_names)}); edit the words and the question"
    )
    print(f"then: {target / 'run.sh'} --corpus_root {root if root != Path.cwd() else '.'}")


def _write(folder: Path, recipes: Path, fields: dict[str, str]) -> None:
    from shala_audio.io import render_template

    settings = recipes / ("goemotions" if fields["modality"] == "text" else "crema_d") / "conf"
    if not settings.is_dir():
        raise UserError(f"{settings}: no such folder, whose settings the recipe begins with; go to a clone")
    shutil.copytree(settings, folder / "conf")
    like = settings.parent.name
    for conf in (folder / "conf").glob("*.yaml"):
        conf.write_text(conf.read_text(encoding="utf-8").replace(like, fields["name"]), encoding="utf-8")
    for script in ("cmd.sh", "path.sh"):
        shutil.copy(recipes / "TEMPLATE" / script, folder / script)
    for template, file in (("run.sh", "run.sh"), ("data.sh", "local/data.sh"), ("README.md", "README.md")):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(render_template(f"recipe/{template}", **fields), encoding="utf-8")
        if file.endswith(".sh"):
            (folder / file).chmod(0o755)


def _below(root: Path, path: Path) -> str:
    return shlex.quote(path.resolve().relative_to(root).as_posix())


def _shown(name: str, table: Path, options: list[str], root: Path) -> str:
    shown = " ".join(option.replace('"$root"', "FOLDER") for option in options)
    return f"{name} FOLDER/{_below(root, table)} {shown}"


@app.command(
    "run",
    hidden=True,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run_recipe(context: typer.Context) -> None:
    """The stages of a recipe, whose run.sh calls `shala-audio recipe run` with its own defaults."""
    from shala_audio.recipe import main

    main(context.args)
