"""Pages of the recipes, made of what lies beside each recipe; and links into the repository, which are no pages, undone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
TABLES = 2  # of RESULTS.md: the measures and the thirds of the rows; costs and commands are left there


def on_files(files: Any, config: Any) -> Any:
    for readme in sorted((ROOT / "recipes").glob("*/README.md")):
        recipe = readme.parent
        text = re.sub(r"\]\(\.\./\.\./docs/", "](../", readme.read_text(encoding="utf-8"))
        text = text.replace("](RESULTS.md)", "](#what-we-measured)")
        results = recipe / "RESULTS.md"
        if results.is_file():
            text += "\n\n## What we measured\n\n" + _tables(results.read_text(encoding="utf-8"))
            for picture in sorted(recipe.glob("RESULTS_*.png")):
                uri = f"recipes/{recipe.name}_{picture.name}"
                if picture.stem in ("RESULTS_jsd", "RESULTS_training"):
                    files.append(File.generated(config, uri, abs_src_path=str(picture)))
                    text += f"\n\n![{picture.stem}]({recipe.name}_{picture.name})"
        files.append(File.generated(config, f"recipes/{recipe.name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository that are no pages become their names."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:recipes|benchmarks|shala_audio|configs)/[^)]*\)", r"\1", markdown)


def _tables(results: str) -> str:
    """Caveats and the first tables, without the title."""
    kept, tables, inside = [], 0, False
    for line in results.splitlines()[1:]:
        starts = line.startswith("|")
        tables += starts and not inside
        inside = starts
        if tables > TABLES or line.startswith("Commands:"):
            break
        kept.append(line)
    return "\n".join(kept).strip()
