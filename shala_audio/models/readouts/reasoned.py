"""`reasoned`: the model writes a short thought, and the label words' probabilities are read off after it.

A thought is a fixed number of drawn tokens, as in VeriFree (arXiv 2505.21493) and LaTRO (arXiv 2411.04282): it earns what the
distribution after it earns, and the distribution has its own gradient. It is for language models of a billion parameters and
more. Public evidence is mixed on whether thoughts help to model disagreement, so `label_token` should stand beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shala_audio.models.readouts.base import Prediction, Rollouts, append_completions
from shala_audio.models.readouts.label_token import LabelToken

if TYPE_CHECKING:
    from shala_audio.models.speech_lm import SpeechLM

THOUGHT = 32  # tokens


class Reasoned(LabelToken):
    """A thought, then the label words' probabilities.

    Raises:
        UserError: two labels' words have the same tokens.
    """

    name = "reasoned"
    is_direct = False

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        # What is forced between the thought and the label's word.
        self.bridge: list[int] = model.tokenizer(f"\n{model.task.answer}", add_special_tokens=False)["input_ids"]

    def question(self, question: str) -> str:
        return f"{question}\nFirst say in a few words why people would disagree."

    @property
    def answer_start(self) -> str:
        return ""

    def predict(self, batch: dict[str, Any]) -> Prediction:
        """After the likeliest thought."""
        return super().predict(self._after(batch, self._thoughts(batch, do_sample=False)))

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy after the likeliest thought, which does not learn by it."""
        thoughts = self._thoughts(batch, do_sample=False)
        return super().supervised_losses(self._after(batch, thoughts), human)

    def longest_completion(self) -> int:
        return THOUGHT + len(self.bridge)

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        repeated = {name: tensor.repeat_interleave(group, dim=0) for name, tensor in batch.items()}
        thoughts = self._thoughts(repeated, do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
        stated = self.log_probs(self._after(repeated, thoughts))[0].exp().cpu().double().numpy()
        completions = [[*thought, *self.bridge] for thought in thoughts.tolist()]
        drawn = [[1] * THOUGHT + [0] * len(self.bridge)] * len(completions)
        return Rollouts(completions, drawn, stated / stated.sum(axis=1, keepdims=True))

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the thought's tokens, among all of the vocabulary but the one that would end it."""
        mask = inputs["attention_mask"]
        hidden = self.model.model(
            **inputs, position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0), use_cache=False
        ).last_hidden_state[:, -count - 1 : -count - 1 + THOUGHT]
        logits = self.model.logits(hidden).float()
        logits[..., self._never()] = -torch.inf
        log_q = (logits / temperature).log_softmax(dim=-1)
        tokens = inputs["input_ids"][:, -count:][:, :THOUGHT]
        log_p = log_q.gather(2, tokens[..., None]).squeeze(2)
        entropy = -torch.where(log_q > -torch.inf, log_q.exp() * log_q, 0.0).sum(dim=-1).detach()
        forced = (0, count - THOUGHT)
        return torch.nn.functional.pad(log_p, forced), torch.nn.functional.pad(entropy, forced)

    def _never(self) -> list[int]:
        """Tokens that no thought holds: what would end it, and the placeholder for sound."""
        suppressed = self.model.generation_config.suppress_tokens or []
        return sorted({self.model.tokenizer.eos_token_id, *suppressed})

    @torch.no_grad()
    def _thoughts(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """(B, THOUGHT) tokens behind left-padded prompts."""
        if not options["do_sample"]:
            options |= {"temperature": None, "top_p": None, "top_k": None}
        found = self.model.generate(
            **batch,
            **options,
            min_new_tokens=THOUGHT,
            max_new_tokens=THOUGHT,
            suppress_tokens=self._never(),
            pad_token_id=self.model.tokenizer.pad_token_id,
        )
        return found[:, batch["input_ids"].shape[1] :]

    def _after(self, batch: dict[str, Any], thoughts: Tensor) -> dict[str, Any]:
        """The batch with thoughts and what is forced behind them."""
        bridge = torch.tensor(self.bridge, device=thoughts.device).expand(len(thoughts), -1)
        return append_completions(batch, torch.cat([thoughts, bridge], dim=1))
