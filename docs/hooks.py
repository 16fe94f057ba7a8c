"""Pages of the recipes, made of what lies beside each recipe; and links into the repository, which are no pages, undone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

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
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository that are no pages become their names."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:recipes|benchmarks|shala_audio|configs)/[^)]*\)", r"\1", markdown)


def _tables(results: str) -> str:
    """Caveats and tables of measures, without the title; costs and commands are left where they are."""
    kept = []
    for line in results.splitlines()[1:]:
        if line.startswith(("| run |", "Commands:")):
            break
        kept.append(line)
    return "\n".join(kept).strip()
