"""What training brings, in the paper's terms: per cent of the distance to the raters, and points of F1, over the untrained model.

    python -m benchmarks.paper_terms > benchmarks/paper_terms.csv

From the tables of the recipes. SHALA (arXiv 2606.05376) states -62.1 % of jsd on ChaosNLI and +16.7 % of F1 at most, over its
own untrained models, which are larger, and says neither which F1 nor whether of points.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
READOUTS = ("label_token", "slots", "verbalized")


def main() -> None:
    """A line for each table and readout that has both."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["table", "readout", "zero_shot_jsd", "shala_jsd", "jsd_per_cent", "zero_shot_macro_f1", "shala_macro_f1"]
    )
    for table in sorted(RECIPES.glob("*/RESULTS*.csv")):
        found: dict[str, dict[str, float]] = defaultdict(dict)
        with open(table, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["measure"] in ("jsd", "macro_f1"):
                    system = row["system"].partition(" [")[0]  # of several runs of a name, the first
                    found[system].setdefault(row["measure"], float(row["value"]))
        for readout in READOUTS:
            start = found.get(f"zero_shot ({readout})")
            end = found.get(f"shala ({readout})") or found.get(f"shala_static ({readout})")
            if start and end:
                gain = 100 * (end["jsd"] / start["jsd"] - 1)
                distances = [f"{start['jsd']:.3f}", f"{end['jsd']:.3f}", f"{gain:+.1f}"]
                name = f"{table.parent.name}/{table.stem}"
                writer.writerow([name, readout, *distances, f"{start['macro_f1']:.3f}", f"{end['macro_f1']:.3f}"])


if __name__ == "__main__":
    main()
