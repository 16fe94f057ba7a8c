"""`reasoned`: the model writes a short thought, and the label words' probabilities are read off after it.

A thought is drawn, and earns what the distribution after it earns; the distribution has its own gradient (near VeriFree, arXiv
2505.21493, and LaTRO, arXiv 2411.04282). Here it has a fixed length. It is for language models of a billion parameters and
more. Public evidence is mixed on whether thoughts help to model disagreement, so `label_token` should stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.models.readouts.base import Prediction, Rollouts, append_completions, check_probs
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
    thinks = True

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        # What is forced between the thought and the label's word.
        self.bridge: list[int] = model.tokenizer(f"\n{model.task.answer}", add_special_tokens=False)["input_ids"]

    def question(self, question: str) -> str:
        return f"{question}\nFirst say in a few words why people would disagree."

    @property
    def answer_start(self) -> str:
        return ""

    def answers(self, batch: dict[str, Any]) -> list[str]:
        """Greedy thoughts."""
        return self.model.tokenizer.batch_decode(self._thoughts(batch), skip_special_tokens=True)

    def predict(self, batch: dict[str, Any]) -> Prediction:
        """After the greedy thought."""
        return super().predict(self._after(batch, self._thoughts(batch)))

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy after the greedy thought, which does not learn by it."""
        return super().supervised_losses(self._after(batch, self._thoughts(batch)), human)

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        thoughts = self._thoughts(batch, group, temperature)
        repeated = {name: tensor.repeat_interleave(group, dim=0) for name, tensor in batch.items()}
        stated = self.log_probs(self._after(repeated, thoughts))[0].exp().cpu().double().numpy()
        completions = [[*thought, *self.bridge] for thought in thoughts.tolist()]
        drawn = [[1] * THOUGHT + [0] * len(self.bridge)] * len(completions)
        return Rollouts(completions, drawn, stated / stated.sum(axis=1, keepdims=True))

    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        raise NotImplementedError("what an answer states follows from its prompt too: `Rollouts.stated`")

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the thought's tokens, among all that a thought may hold."""
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        log_q = self._log_q(hidden[:, -count - 1 : -count - 1 + THOUGHT], temperature)
        log_p = log_q.gather(2, inputs["input_ids"][:, -count:][:, :THOUGHT, None]).squeeze(2)
        entropy = -torch.where(log_q > -torch.inf, log_q.exp() * log_q, 0.0).sum(dim=-1).detach()
        forced = (0, count - THOUGHT)
        return torch.nn.functional.pad(log_p, forced), torch.nn.functional.pad(entropy, forced)

    @torch.no_grad()
    def _thoughts(self, batch: dict[str, Any], group: int = 1, temperature: float = 0.0) -> Tensor:
        """(B · group, THOUGHT) tokens behind left-padded prompts, whose pass a group shares; the likeliest each at temperature 0.

        Not by `generate`: it would ask the model through its own forward, where autocast is entered already, and draw by what the
        model's generation settings say, which the loss does not know.
        """
        training = self.model.training
        self.model.eval()  # layers whose activations are computed again keep no cache in training mode
        inputs = dict(batch)
        mask = inputs.pop("attention_mask")
        outputs = self.model.model(attention_mask=mask, use_cache=True, **inputs)
        cache = outputs.past_key_values
        if group > 1:
            cache.batch_repeat_interleave(group)
        hidden = outputs.last_hidden_state[:, -1:].repeat_interleave(group, dim=0)
        mask = mask.repeat_interleave(group, dim=0)
        found = []
        while True:
            log_q = self._log_q(hidden, temperature or 1.0)[:, 0]
            if temperature:
                found.append(torch.multinomial(check_probs(log_q.exp()), 1))
            else:
                found.append(log_q.argmax(dim=-1, keepdim=True))
            if len(found) == THOUGHT:
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            hidden = self.model.model(
                input_ids=found[-1], attention_mask=mask, past_key_values=cache, use_cache=True
            ).last_hidden_state
        self.model.train(training)
        return torch.cat(found, dim=1)

    def _log_q(self, hidden: Tensor, temperature: float) -> Tensor:
        """Log-probabilities (B, n, vocabulary) of a thought's next token, which neither ends it nor stands for sound."""
        logits = self.model.logits(hidden).float()
        tokenizer, settings = self.model.tokenizer, self.model.generation_config
        ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
        never = {tokenizer.eos_token_id, tokenizer.pad_token_id, *ends, *(settings.suppress_tokens or [])} - {None}
        logits = logits.index_fill(2, torch.tensor(sorted(never), device=logits.device), -torch.inf)
        return (logits / temperature).log_softmax(dim=-1)

    def _after(self, batch: dict[str, Any], thoughts: Tensor) -> dict[str, Any]:
        """The batch with thoughts and what is forced behind them."""
        bridge = torch.tensor(self.bridge, device=thoughts.device).expand(len(thoughts), -1)
        return append_completions(batch, torch.cat([thoughts, bridge], dim=1))
