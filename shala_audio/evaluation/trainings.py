"""What the runs of a table were: cost, commands, hashes, versions, and what was tried on dev."""

from __future__ import annotations

from collections.abc import Sequence

from shala_audio.evaluation.results import Run, run_name
from shala_audio.evaluation.tuning import in_words


def what_they_were(runs: Sequence[Run]) -> list[str]:
    """As lines of Markdown; none where no run has a record."""
    trained = [run for run in {run.folder: run for run in runs}.values() if run.training.get("command")]
    if not trained:
        return []
    lines = [
        "| run | seed | minutes | peak memory (MB) | precision | trained parameters | chosen on dev | split | manifest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in trained:
        found = run.training
        minutes = f"{found['seconds'] / 60:.1f}" + (" (since a resume)" if found.get("resumed") else "")
        minutes += f" (all of {found['folds']} folds)" if found.get("folds") else ""
        minutes += f" ({found['processes']} processes)" if found.get("processes", 1) > 1 else ""
        parameters = f"{found['trained_parameters']:,}" if found.get("trained_parameters") else "–"
        memory = f"{found['peak_mb']:,}"
        if found.get("peak_gpu_mb"):
            memory += f" ({found.get('gpu', 'GPU')}: {found['peak_gpu_mb']:,})"
        name, sha = run_name(found, run.folder), found["manifest_sha256"][:8]
        chosen = "yes" if found.get("tuned") or found.get("chosen") else "no" if parameters != "–" else "–"
        split = (found.get("data", {}).get("split_sha256") or "–")[:8]
        cells = [name, found["seed"], minutes, memory, found.get("precision", "–"), parameters, chosen, split, sha]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "Chosen on dev: whether a run chose settings there; the others have those of their command and its file. Split and "
        "manifest: the first digits of their sha256.",
        "",
    ]
    lines += [*_choices(trained), "Commands:", ""]
    commands = [line for run in trained for line in (*run.training.get("before", []), run.training["command"])]
    lines += [f"    {command}" for command in dict.fromkeys(commands)]
    used = dict.fromkeys(
        ", ".join(f"{name} {number}" for name, number in run.training["versions"].items()) for run in trained
    )
    revisions = (run.training.get("revision") or "" for run in trained)  # of folds: several, with commas
    commits = dict.fromkeys(commit for joined in revisions for commit in joined.split(", ") if commit)
    code = f" Commit of the code: {', '.join(commits)}." if commits else ""
    lines += ["", f"{_base_models(trained)} Versions: {'; or '.join(used)}.{code}"]
    return [*lines, ""]


def _base_models(trained: Sequence[Run]) -> str:
    """Language model and encoder, each with the hash of its weights."""
    sentences = []
    for what, key in (("Language model", "lm"), ("Encoder", "encoder")):
        found = {(run.training[key], run.training[f"{key}_sha256"][:16]) for run in trained if run.training.get(key)}
        if found:
            named = "; ".join(f"{name}, sha256 {sha or 'not known'}" for name, sha in sorted(found))
            sentences.append(f"{what} {named}.")
    return " ".join(sentences)


def _choices(trained: Sequence[Run]) -> list[str]:
    """What was tried on dev for the runs whose settings were chosen there; the one kept in bold."""
    lines = []
    for run in trained:
        if not (tuned := run.training.get("tuned")):
            continue
        name, seed = run_name(run.training, run.folder), run.training["seed"]
        if isinstance(tuned, list):  # of each fold of a cross-validation
            chosen = [(f"{seed}, fold {fold}", one) for fold, one in enumerate(tuned)]
        else:
            chosen = [(str(seed), tuned)]
        for which, found in chosen:
            best = min(found["tried"], key=lambda one: one["jsd"])
            cells = []
            for one in found["tried"]:
                text = f"{in_words(one['settings'])}: {one['jsd']:.3f}"
                cells.append(f"**{text}**" if one is best else text)
            lines.append(f"| {name} | {which} | {found['rows']} | {'; '.join(cells)} |")
    if not lines:
        return []
    heads = ["Settings chosen on dev, by jsd:", "", "| run | seed | dev rows | tried |", "|---|---|---|---|"]
    at_the_end = "Where the best is the smallest or the largest that was tried, one beyond it may be better still."
    return [*heads, *lines, "", at_the_end, ""]
