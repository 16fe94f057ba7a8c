"""`label_token`: the probabilities of the K label words after the answer's beginning, in one forward pass.

Words of several tokens form a tree. At every place where words part, the model's probabilities of the possible next tokens
are renormalised among themselves; a label's probability is the product along its path. So disgust, disapproval and
disappointment, which begin alike, are told apart, and the K probabilities sum to 1. All branches follow the prompt in one
sequence, and an attention mask keeps each from seeing the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.models.readouts.base import (
    Prediction,
    Readout,
    Rollouts,
    append_completions,
    check_probs,
    distinct_prompts,
)

if TYPE_CHECKING:
    from shala_audio.models.speech_lm import SpeechLM

# Tokens that computing a beginning once must save: on a CPU a pass of few tokens is no faster than one of some hundred, since
# all weights are read, and under autocast rounded, for it.
WORTH_SHARING = 256
# On an accelerator a pass is thousands of kernels, whose launches take longer than a small model's products: what is saved,
# times the model's parameters, must be worth launching them all twice (an estimate: 20,000 tokens of 135 million parameters).
WORTH_LAUNCHING_TWICE = 2.7e12


@dataclass(frozen=True)
class Branching:
    """A place where words part: the node whose logits decide, the next tokens, and the labels under each of them."""

    node: int  # index into the tree's tokens; -1 is the end of the prompt
    token_ids: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]

    def child_of(self, size: int) -> list[int]:
        """For each of `size` labels the token, numbered from 0, that it goes on with; -1 where it does not come by here.

        >>> Branching(-1, (5, 7), ((0, 2), (1,))).child_of(4)
        [0, 1, 0, -1]
        """
        child = [-1] * size
        for index, labels in enumerate(self.labels):
            for label in labels:
                child[label] = index
        return child


class LabelTree:
    """The label words of a task as a tree of tokens.

    Args:
        words: the K words' tokens, none of them the beginning of another.

    Attributes:
        tokens, parents: the nodes that a forward pass must see after the prompt; parents index them, -1 is the prompt.
        branchings: where words part.

    >>> tree = LabelTree([(5, 1, 9), (5, 2), (7,)])
    >>> tree.tokens, [(b.node, b.token_ids) for b in tree.branchings]
    ([5], [(-1, (5, 7)), (0, (1, 2))])
    """

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.size = len(words)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.branchings: list[Branching] = []
        self._grow([tuple(word) for word in words], list(range(len(words))), depth=0, path=[], parent=-1)

    def _grow(self, words: list[tuple[int, ...]], labels: list[int], depth: int, path: list[int], parent: int) -> None:
        """Visit a node shared by `labels`; `path` holds tokens since `parent` that no branching has needed yet."""
        children: dict[int, list[int]] = {}
        for label in labels:
            if depth >= len(words[label]):
                raise ValueError("a label's tokens are the beginning of another's")
            children.setdefault(words[label][depth], []).append(label)
        node = parent
        if len(children) > 1:
            for token in path:
                self.tokens.append(token)
                self.parents.append(node)
                node = len(self.tokens) - 1
            path = []
            self.branchings.append(Branching(node, tuple(children), tuple(map(tuple, children.values()))))
        for token, members in children.items():
            if len(members) > 1:
                self._grow(words, members, depth + 1, [*path, token], node)

    def ancestors(self) -> Tensor:
        """(n, n) bool: which of the n nodes each node may see, itself included."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for index, parent in enumerate(self.parents):
            if parent >= 0:
                seen[index] |= seen[parent]
        return seen

    def paths(self) -> list[list[int]]:
        """Nodes from the prompt to each node that has none behind it.

        >>> LabelTree([(5, 1, 9), (5, 1, 8), (5, 2), (7, 3), (7, 4)]).paths()
        [[0, 1], [2]]
        """
        seen = self.ancestors()
        ends = [index for index in range(len(self.tokens)) if index not in self.parents]
        return [seen[end].nonzero().flatten().tolist() for end in ends]

    def depths(self) -> Tensor:
        """(n,) distance of each node from the prompt's last token, 1 or more."""
        return self.ancestors().sum(dim=1)


class LabelToken(Readout):
    """The label words' probabilities, renormalised among themselves.

    Raises:
        UserError: two labels' words have the same tokens.
    """

    name = "label_token"
    is_direct = True

    def __init__(self, model: SpeechLM) -> None:
        super().__init__(model)
        tokenizer = model.tokenizer
        # The end-of-sequence token closes each word, so that none begins another.
        self.words = [
            (*tokenizer(" " + label.word, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
            for label in model.task.labels
        ]
        if len(set(self.words)) < len(self.words):
            raise UserError(f"task {model.task.name}: two labels' words have the same tokens")
        self.tree = LabelTree(self.words)

    @property
    def answer_start(self) -> str:
        return self.model.task.answer

    def write(self, p: Floats) -> str:
        """The likeliest label's word."""
        return f"{self.model.task.answer} {self.model.task.labels[int(np.argmax(p))].word}"

    def log_probs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        hidden = label_states(self.model, self.tree, batch)
        return tree_log_probs(self.model, self.tree, hidden), self._attributes(hidden)

    def predict(self, batch: dict[str, Any]) -> Prediction:
        hidden = label_states(self.model, self.tree, batch)
        probs = tree_log_probs(self.model, self.tree, hidden).exp().cpu().double().numpy()
        attributes: list[dict[str, float]] = [{} for _ in probs]
        if (found := self._attributes(hidden)) is not None:
            names = [attribute.name for attribute in self.model.task.attributes]
            attributes = [dict(zip(names, values, strict=True)) for values in found.tolist()]
        states = hidden[:, 0].float().cpu().numpy()
        return Prediction(probs / probs.sum(axis=1, keepdims=True), attributes, states=states)

    def supervised_losses(self, batch: dict[str, Any], human: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy with the whole human distribution, in nats."""
        log_q, attributes = self.log_probs(batch)
        return -(human * log_q).sum(dim=-1), attributes

    def rollouts(self, batch: dict[str, Any], group: int, temperature: float) -> Rollouts:
        """An answer is one label, as a language model is usually rewarded for; all of a prompt are drawn after one pass."""
        labels = draw_labels(self.log_probs(batch)[0] / temperature, group).flatten().tolist()
        completions = [list(self.words[label]) for label in labels]
        return Rollouts(completions, [[1] + [0] * (len(tokens) - 1) for tokens in completions])

    def drawn_log_probs(
        self, inputs: dict[str, Any], count: int, temperature: float, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A label's log-probability stands at its word's first token."""
        first, which = distinct_prompts(rows)
        prompts = {name: tensor[first] for name, tensor in inputs.items()}
        for name in ("input_ids", "attention_mask"):
            prompts[name] = prompts[name][:, :-count]
        log_q = (self.log_probs(prompts)[0] / temperature).log_softmax(dim=-1)
        labels = torch.tensor(self._labels(inputs["input_ids"][:, -count:].tolist()), device=log_q.device)
        log_p = log_q[which].gather(1, labels[:, None])
        entropy = -(log_q.exp() * log_q).sum(dim=-1).detach()[which, None]
        forced = (0, count - 1)
        return torch.nn.functional.pad(log_p, forced), torch.nn.functional.pad(entropy, forced)

    def stated(self, completions: Sequence[Sequence[int]]) -> Floats:
        """All of the mass on the label that was drawn."""
        return np.eye(len(self.words))[self._labels(completions)]

    def _labels(self, completions: Sequence[Sequence[int]]) -> list[int]:
        """Numbers of the labels whose words these tokens begin with."""
        number = {word: label for label, word in enumerate(self.words)}
        lengths = sorted({len(word) for word in self.words})
        return [next(number[word] for n in lengths if (word := tuple(tokens[:n])) in number) for tokens in completions]

    def _attributes(self, hidden: Tensor) -> Tensor | None:
        head = self.model.attribute_head
        return None if head is None else head(hidden[:, 0])


def draw_labels(log_q: Tensor, group: int) -> Tensor:
    """Numbers (B, G) of labels drawn from log-probabilities (B, K), which need not be normalised."""
    return torch.multinomial(check_probs(log_q.detach().float().softmax(dim=-1)), group, replacement=True)


def label_states(model: SpeechLM, tree: LabelTree, batch: dict[str, Any]) -> Tensor:
    """Hidden states (B, 1 + n, D) of the prompt's last token and of the tree's n nodes.

    Args:
        model: whose trained parts get the gradient.
        tree: of its task's label words.
        batch: `input_ids`, `attention_mask` (B, L), left-padded, and features where the task has sound.
    """
    if not tree.tokens or model.model.sees(batch["input_ids"].shape[1] + len(tree.tokens)):
        return _states(model, tree, batch, 1)
    # What a node may see is said by a mask of all places. Layers of a running state take no notice of it, and of a window that
    # is too small it says nothing: each path through the tree is a pass of its own there.
    found: dict[int, Tensor] = {}
    for path in tree.paths():
        ids = torch.tensor([tree.tokens[node] for node in path], device=batch["input_ids"].device)
        ids = ids.expand(len(batch["input_ids"]), -1)
        states = _states(model, LabelTree([(0,)]), append_completions(batch, ids), 1 + len(path))
        found |= {-1: states[:, 0], **dict(zip(path, states[:, 1:].unbind(dim=1), strict=True))}
    return torch.stack([found[node] for node in range(-1, len(tree.tokens))], dim=1)


def _states(model: SpeechLM, tree: LabelTree, batch: dict[str, Any], kept: int) -> Tensor:
    """Hidden states (B, kept + n, D) of the last tokens of prompts, and of the tree's n nodes."""
    batch = dict(batch)
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    count = len(tree.tokens)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    shared = computed_once(model, ids, mask)
    cache = None
    if shared:
        # Every row's instruction begins alike: one row computes that, with its gradient.
        longest = int(mask.sum(dim=1).argmax())
        beginning = ids[longest : longest + 1, ids.shape[1] - int(mask[longest].sum()) :][:, :shared]
        cache = model.model(input_ids=beginning, use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
            layer.values = layer.values.expand(len(ids), -1, -1, -1)
        mask = mask * (positions >= shared)
        width = int(mask.sum(dim=1).max())
        ids, mask, positions = ids[:, -width:], mask[:, -width:], positions[:, -width:]
    if count:
        suffix = torch.tensor(tree.tokens, device=ids.device).expand(len(ids), -1)
        positions = torch.cat([positions, positions[:, -1:] + tree.depths().to(ids.device)], dim=1)
        ids = torch.cat([ids, suffix], dim=1)
    backbone = model.model
    embeds = backbone.embed(ids, batch.pop("audio_features", None), batch.pop("audio_lengths", None))
    outputs = backbone(
        inputs_embeds=embeds,
        attention_mask=_tree_attention(model, mask, tree, shared) if count else _with_shared(mask, shared),
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
        **batch,
    )
    hidden = outputs.last_hidden_state[:, -kept - count :]
    if backbone.audio_adapter is None or backbone.audio_adapter.summary is None:
        return hidden
    # The summary token lies among the words' embeddings: what it says of the label words goes past the layers as well.
    is_audio = ids == backbone.audio_token_id
    summary = embeds[torch.arange(len(ids), device=ids.device), is_audio.long().argmax(dim=1)]
    return hidden + (summary * is_audio.any(dim=1)[:, None])[:, None].to(hidden.dtype)


def computed_once(model: SpeechLM, ids: Tensor, mask: Tensor) -> int:
    """How many tokens of a left-padded batch (B, L) are computed once for all rows: their common beginning, if it pays."""
    shared = shared_beginning(ids, mask, model.model.audio_token_id)
    pays = is_worth_sharing((len(ids) - 1) * shared, model.model.size, ids.device.type)
    return shared if pays and model.model.shares_prompts() else 0


def is_worth_sharing(saved: int, size: int, device: str) -> bool:
    """Whether a pass of its own for what rows have in common pays.

    Args:
        saved: tokens that need not be computed then.
        size: of the language model, in parameters.
        device: as torch names its kind.

    >>> is_worth_sharing(300, 135_000_000, "cpu"), is_worth_sharing(300, 135_000_000, "cuda")
    (True, False)
    """
    return saved >= WORTH_SHARING if device == "cpu" else saved * size >= WORTH_LAUNCHING_TWICE


def shared_beginning(ids: Tensor, mask: Tensor, audio_token_id: int) -> int:
    """How many tokens all rows of a left-padded batch (B, L) begin with alike; none of them sound, nor a row's last.

    >>> ids = torch.tensor([[0, 5, 6, 7, 8], [5, 6, 9, 7, 8]])
    >>> shared_beginning(ids, torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]), audio_token_id=3)
    2
    """
    if len(ids) == 1:
        return 0
    lengths = mask.sum(dim=1)
    shortest = int(lengths.min())
    columns = torch.arange(shortest - 1, device=ids.device) + (ids.shape[1] - lengths)[:, None]
    begin = ids.gather(1, columns)
    alike = ((begin == begin[:1]) & (begin != audio_token_id)).all(dim=0)
    return int(alike.long().cumprod(dim=0).sum())


def tree_log_probs(model: SpeechLM, tree: LabelTree, hidden: Tensor) -> Tensor:
    """(B, K) log-probabilities of the labels, from the states of `label_states`."""
    log_probs = hidden.new_zeros(len(hidden), tree.size, dtype=torch.float32)
    for branching in tree.branchings:
        token_ids = torch.tensor(branching.token_ids, device=hidden.device)
        step = model.token_logits(hidden[:, 1 + branching.node], token_ids).log_softmax(dim=-1)
        child = torch.tensor(branching.child_of(tree.size), device=hidden.device)
        below = child >= 0
        log_probs = log_probs + torch.where(below, step[:, child.clamp(min=0)], 0.0)
    return log_probs


def _with_shared(mask: Tensor, shared: int) -> Tensor:
    """(B, P + L): the mask of a prompt behind P tokens that were computed before."""
    return torch.cat([mask.new_ones(len(mask), shared), mask], dim=1)


def _tree_attention(model: SpeechLM, mask: Tensor, tree: LabelTree, shared: int) -> Tensor:
    """(B, 1, L + n, P + L + n): the prompt is causal, a node sees the prompt and its own ancestors, and all see the P tokens
    that were computed before. Bool for torch's attention, which hides what is False; for transformers' own ("eager"), which
    adds the mask, numbers."""
    batch, length = mask.shape
    count = len(tree.tokens)
    total = length + count
    allowed = torch.ones(total, total, dtype=torch.bool, device=mask.device).tril()
    allowed[length:, length:] = tree.ancestors().to(mask.device)
    valid = torch.cat([mask.bool(), mask.new_ones(batch, count, dtype=torch.bool)], dim=1)
    allowed = allowed & valid[:, None, :]
    # A padded position sees itself, so that no row of the softmax is empty.
    allowed = allowed | torch.eye(total, dtype=torch.bool, device=mask.device)
    allowed = torch.cat([allowed.new_ones(batch, total, shared), allowed], dim=2)[:, None]
    decoder = model.model.decoder
    if decoder.config._attn_implementation == "sdpa":
        return allowed
    dtype = decoder.get_input_embeddings().weight.dtype
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
