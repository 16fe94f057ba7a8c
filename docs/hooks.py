"""Pages of the recipes, made of what lies beside each; a page of all commands and settings; and links into the repository, which are
no pages, undone."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File

from shala_audio.cli.main import app
from shala_audio.training.config import DirectConfig, GrpoConfig

ROOT = Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    for readme in sorted((ROOT / "recipes").glob("*/README.md")):
        recipe = readme.parent
        text = re.sub(r"\]\(\.\./\.\./docs/", "](../", readme.read_text(encoding="utf-8"))
        text = re.sub(r"\[([^\]]+)\]\([\w.]+\.json\)", r"\1", text)
        for results in sorted(recipe.glob("RESULTS*.md")):
            text = text.replace(f"]({results.name})", f"](#{results.stem.lower()})")
            written = results.read_text(encoding="utf-8")
            title = written.splitlines()[0].removeprefix("# ")
            text += f"\n\n## What we measured: {title} {{#{results.stem.lower()}}}\n\n" + _tables(written)
            for kind in ("jsd", "training"):
                picture = results.with_name(f"{results.stem}_{kind}.png")
                if picture.is_file():
                    uri = f"recipes/{recipe.name}_{picture.name}"
                    files.append(File.generated(config, uri, abs_src_path=str(picture)))
                    text += f"\n\n![{kind}]({recipe.name}_{picture.name})"
        files.append(File.generated(config, f"recipes/{recipe.name}.md", content=text))
    files.append(File.generated(config, "commands.md", content=_commands() + _settings()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to recipes' tables lead to their pages; those to files of the repository that are no pages become their names."""
    markdown = re.sub(
        r"\]\((?:\.\./)+recipes/(\w+)/(RESULTS\w*)\.md\)",
        lambda found: f"](recipes/{found[1]}.md#{found[2].lower()})",
        markdown,
    )
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:recipes|benchmarks|shala_audio|configs)/[^)]*\)", r"\1", markdown)


def _tables(results: str) -> str:
    """Caveats and tables of measures, without the title; what follows the first table is folded, costs and commands are left out."""
    kept = []
    for line in results.splitlines()[1:]:
        if line.startswith("<details>"):
            break
        kept.append(line)
    first = next((index for index, line in enumerate(kept) if line.startswith("|")), len(kept))
    end = next((index for index in range(first, len(kept)) if not kept[index].startswith("|")), len(kept))
    folded = [f"    {line}" if line else "" for line in kept[end:]]
    return "\n".join([*kept[:end], "", '??? note "Tests, thirds, temperatures"', "", *folded]).strip()


def _commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    parts = ["# Commands and settings\n\nErrors that you can mend are one line, and the exit status is 2.\n"]

    def walk(command: Any, path: list[str]) -> None:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                walk(inner, [*path, name])
            return
        parts.append(f"## {' '.join(path)}\n\n{cleandoc(command.help or '')}\n")
        rows = [(parameter, getattr(parameter, "help", None)) for parameter in command.params]
        if shown := [(parameter, text) for parameter, text in rows if text]:
            parts.append("| | what | where not given |\n|---|---|---|")
            for parameter, text in shown:
                given = "needed" if parameter.required else _default(parameter.default)
                name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
                parts.append(f"| `{name}` | {_cell(text)} | {given} |")
            parts.append("")

    walk(typer.main.get_command(app), ["shala-audio"])
    return "\n".join(parts)


def _settings() -> str:
    """Settings of training that are ours, from the dataclasses that read them."""
    parts = [
        "\n## Settings of training\n\nIn a `--config` file, or as flags. Those of transformers and TRL go as well (`--help-all`).\n"
    ]
    parts.append("| setting | what | where not given |\n|---|---|---|")
    seen = set()
    for kind in (DirectConfig, GrpoConfig):
        inherited = {
            one.name
            for base in kind.__mro__
            if base.__module__.startswith(("transformers", "trl"))
            for one in _fields(base)
        }
        for one in fields(kind):
            text = one.metadata.get("help")
            if text and one.name not in seen | inherited:
                seen.add(one.name)
                parts.append(f"| `{one.name}` | {_cell(text)} | {_default(one.default)} |")
    return "\n".join(parts) + "\n"


def _fields(kind: Any) -> Any:
    return fields(kind) if is_dataclass(kind) else ()


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (str, int, float)) and value != "":
        return f"`{value}`"
    return ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
