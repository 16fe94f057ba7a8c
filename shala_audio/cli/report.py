"""`shala-audio report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shala_audio.errors import UserError


def report(
    experiments: Annotated[list[Path], typer.Argument(help="Folders with a score.json.", metavar="EXP")],
    out: Annotated[Path, typer.Option(help="Markdown file; pictures go beside it.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the manifest's summary.json: caveat and split.")] = None,
    title: Annotated[str, typer.Option(help="Heading.")] = "Results",
) -> None:
    """Write one table of several systems, with a picture of it and of the training.

    Example: shala-audio report exp/zero_shot exp/warm_start exp/shala --data data --out RESULTS.md
    """
    from shala_audio.evaluation.tables import markdown
    from shala_audio.files import read_json, write_text

    scores = {folder.name: read_json(folder / "score.json") for folder in experiments}
    if len(scores) < len(experiments):
        raise UserError("two of the folders have the same name")
    lines = [f"# {title}", ""]
    if data is not None:
        summary = read_json(data / "summary.json")
        rows = ", ".join(f"{name} {found['rows']}" for name, found in summary["splits"].items())
        lines += [f"Rows: {rows}. Split seed {summary['seed']}, sha256 {summary['split_sha256'][:16]}.", ""]
        lines += [summary["caveat"], ""] if summary["caveat"] else []
    lines += [markdown(scores)]
    lines += ["Less is better for jsd, jsd_nats and kl, more for the rest; jsd with its 95 % interval.", ""]
    trained = [folder for folder in experiments if (folder / "training.json").is_file()]
    if trained:
        lines += ["| training | readout | seed | minutes | trained parameters |", "|---|---|---|---|---|"]
        for folder in trained:
            run = read_json(folder / "training.json")
            minutes, parameters = f"{run['seconds'] / 60:.1f}", f"{run['trained_parameters']:,}"
            lines.append(f"| {folder.name} | {run['readout']} | {run['seed']} | {minutes} | {parameters} |")
        lines.append("")
    lines += _pictures(scores, trained, out)
    write_text(out, "\n".join(lines))
    print(out)


def _pictures(scores: dict, trained: list[Path], out: Path) -> list[str]:
    """Draw them where matplotlib is installed; return the lines that show them."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return []
    from shala_audio.evaluation.plots import plot_jsd, plot_training

    jsd_picture, log_picture = (out.with_name(f"{out.stem}_{what}.png") for what in ("jsd", "training"))
    plot_jsd(scores, jsd_picture)
    lines = [f"![jsd of every system]({jsd_picture.name})"]
    logs = {folder.name: folder / "log.jsonl" for folder in trained if (folder / "log.jsonl").is_file()}
    if logs:
        plot_training(logs, log_picture)
        lines.append(f"![loss by step]({log_picture.name})")
    return [*lines, ""]
