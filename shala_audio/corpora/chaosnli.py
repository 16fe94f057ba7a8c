"""ChaosNLI: 100 votes on each of 1,514 SNLI and 1,599 MNLI pairs of sentences (arXiv 2010.03532).

The corpus has no train split: rows are split by premise, so that no premise stands on two sides.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from shala_audio.corpora.prepare import SOURCES, Prepared, as_mapping, need_file
from shala_audio.corpora.splits import fold_split, split_by_group
from shala_audio.errors import UserError
from shala_audio.io import readable
from shala_audio.manifest import Row

TASK = "chaosnli"
PARTS = {"snli": "chaosNLI_snli.jsonl", "mnli": "chaosNLI_mnli_m.jsonl"}
LABELS = ("entailment", "neutral", "contradiction")  # the order of `label_count` in the corpus's files
SHARES = {"train": 0.75, "dev": 0.05, "test": 0.20}


def prepare(source: Path, seed: int, part: str = "snli", fold: int | None = None) -> Prepared:
    """Rows of one part ("snli", "mnli" or "both").

    Args:
        source: folder with `chaosNLI_snli.jsonl` and `chaosNLI_mnli_m.jsonl`.
        seed: of the split.
        part: which file.
        fold: of the cross-validation over premises, 0 to 4; None for one split.
    """
    if part not in (*PARTS, "both"):
        raise UserError(f"--part is {part!r}; use snli, mnli or both")
    rows: list[Row] = []
    for name in PARTS if part == "both" else (part,):
        path = need_file(source, PARTS[name])
        with readable(path):
            lines = path.read_text(encoding="utf-8").strip("\n").split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                item = json.loads(line)
                text = {"premise": item["example"]["premise"], "hypothesis": item["example"]["hypothesis"]}
                votes = as_mapping(LABELS, item["label_count"])
                rows.append(Row(item["uid"], TASK, "train", None, None, text, votes, {"part": name}))
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}:{number}: not a ChaosNLI row ({error!r})") from None
    premises = [row.text["premise"] for row in rows]
    split_of = split_by_group(premises, SHARES, seed) if fold is None else fold_split(premises, fold, seed, 1 / 16)
    ours = "this one is ours, by premise," if fold is None else f"this is fold {fold} of our five, by premise,"
    return Prepared(
        [replace(row, split=split_of[premise]) for row, premise in zip(rows, premises, strict=True)],
        caveat=f"ChaosNLI has no train split: {ours} in splits.json.",
        licence=SOURCES["chaosnli"].licence,
    )
