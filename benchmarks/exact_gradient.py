"""The direct objective's gradient against GRPO's on sampled labels: the error falls as 1/√N in the number of rollouts.

For one batch of `mini_text` rows and the default text model, the gradient of every label's log-probability is computed
once; a group of G drawn labels then has a gradient that is a weighted sum of those. The mean over N groups is compared with
(G - 1) / G times the exact gradient: relative error over 20 repetitions, for N from 1 to 4,096. Writes `exact_gradient.csv`
and the picture `exact_gradient.png`.

    python -m benchmarks.exact_gradient --out docs/images        # about a minute
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shala_audio.corpora.mini import prepare
from shala_audio.distribution import Floats
from shala_audio.io import atomic_write, write_text
from shala_audio.models.config import load_model_config
from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import load_task
from shala_audio.training.losses import js_divergence
from shala_audio.votes import human_distributions

ROWS, GROUP, REPETITIONS = 8, 8, 20
GROUPS = (1, 4, 16, 64, 256, 1024, 4096)


def marginal_reward(p: Tensor, log_q: Tensor) -> Tensor:
    """½ log(m / q) of each label, (B, K): under this reward the direct objective is a policy gradient (`training.losses`)."""
    q = log_q.exp()
    return (((p + q) / 2).log() - log_q).detach() / 2


def label_gradients(model: SpeechLM, log_q: Tensor) -> Tensor:
    """(B, K, parameters) gradients of every label's log-probability."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for row in log_q:
        found = [torch.autograd.grad(value, parameters, retain_graph=True) for value in row]
        rows.append(torch.stack([torch.cat([part.flatten() for part in one]) for one in found]))
    return torch.stack(rows)


def errors() -> Floats:
    """(len(GROUPS), REPETITIONS) relative errors of the mean GRPO gradient."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = prepare(Path(folder), seed=0, rows=ROWS, text=True).rows
    model = SpeechLM.build(load_model_config("text"), load_task("mini_text"), "label_token")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # away from zero, so that both of LoRA's factors have a gradient
            torch.nn.init.normal_(parameter, std=0.02)
    builder = PromptBuilder(model)
    human = torch.tensor(human_distributions(rows, model.task.label_names), dtype=torch.float32)
    log_q = model.readout.log_probs(builder.batch([builder.prompt(row.text, None) for row in rows]))[0]
    reward = marginal_reward(human, log_q)
    gradients = label_gradients(model, log_q)
    exact = torch.autograd.grad(js_divergence(human, log_q).mean(), [p for p in model.parameters() if p.requires_grad])
    expected = torch.cat([part.flatten() for part in exact]) * (GROUP - 1) / GROUP
    # Errors live in the space that B · K label gradients span: their Gram matrix is all that is needed.
    flat = gradients.flatten(0, 1).double()
    gram = flat @ flat.T
    target = torch.linalg.lstsq(gram, flat @ expected.double()).solution
    size = float(target @ gram @ target) ** 0.5
    rng = torch.Generator().manual_seed(0)
    found = np.empty((len(GROUPS), REPETITIONS))
    for index, groups in enumerate(GROUPS):
        for repetition in range(REPETITIONS):
            weights = []
            for row in range(ROWS):
                drawn = torch.multinomial(log_q[row].exp().detach(), groups * GROUP, True, generator=rng)
                drawn = drawn.view(groups, GROUP)
                earned = reward[row][drawn]
                advantage = earned - earned.mean(dim=1, keepdim=True)
                total = torch.zeros(log_q.shape[1], dtype=torch.float64)
                total.index_add_(0, drawn.flatten(), advantage.flatten().double())
                weights.append(-total / (groups * GROUP * ROWS))
            gap = torch.cat(weights) - target
            found[index, repetition] = float(gap @ gram @ gap) ** 0.5 / size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the picture")
    out = parser.parse_args().out
    found = errors()
    rollouts = np.array(GROUPS) * GROUP
    median = np.median(found, axis=1)
    slope = float(np.polyfit(np.log(rollouts), np.log(median), 1)[0])
    lines = ["rollouts,median_relative_error,low,high"]
    for count, row in zip(rollouts, found, strict=True):
        low, mid, high = np.percentile(row, [2.5, 50, 97.5])
        lines.append(f"{count},{mid:.6f},{low:.6f},{high:.6f}")
    write_text(out / "exact_gradient.csv", "\n".join(lines) + "\n")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    low, high = np.percentile(found, [2.5, 97.5], axis=1)
    axes.errorbar(
        rollouts, median, yerr=[median - low, high - median], marker="o", capsize=3, label="mean GRPO gradient"
    )
    axes.plot(rollouts, median[0] * np.sqrt(rollouts[0] / rollouts), linestyle=":", color="grey", label="1 / √N")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rollouts N for each prompt")
    axes.set_ylabel("relative distance to the exact gradient")
    axes.set_title(f"fitted slope {slope:.2f} (−0.5 expected)")
    axes.legend()
    figure.tight_layout()
    with atomic_write(out / "exact_gradient.png") as beside:
        figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
    print(f"fitted slope {slope:.3f}; relative error {median[0]:.3f} with {rollouts[0]} rollouts,")
    print(f"{median[-1]:.4f} with {rollouts[-1]}")


if __name__ == "__main__":
    main()
