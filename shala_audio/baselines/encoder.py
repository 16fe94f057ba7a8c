"""A text encoder of the hub, such as RoBERTa, fine-tuned whole with soft labels: what most would take for texts.

Cross-entropy against the human distributions, AdamW, a tenth of the steps to warm up; learning rate and number of passes are
chosen on the dev split.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from shala_audio.baselines.linear import Fitted, judged_splits, named_predictions
from shala_audio.devices import computes_bf16
from shala_audio.distribution import Floats, jsd
from shala_audio.errors import UserError, first_line
from shala_audio.io import LOADING_ERRORS, at_commit
from shala_audio.manifest import Row
from shala_audio.task import Task
from shala_audio.training.data import visit_order

log = logging.getLogger(__name__)

LEARNING_RATES = (1e-5, 3e-5, 1e-4)
PASSES, BATCH = 5, 16


def train_encoder(
    rows: Sequence[Row],
    name: str,
    task: Task,
    seed: int = 0,
    device: str = "cpu",
    rates: Sequence[float] = LEARNING_RATES,
) -> Fitted:
    """Fit on train, choose on dev, predict dev and test.

    Args:
        rows, task: what to learn. A task whose prompt reads two fields gives pairs, else one text.
        name: of the hub ("name@commit" for one of its commits), or a folder.
        seed: of the new layer, of dropout and of the order of the rows.
        device: where to compute.
        rates: learning rates to try.

    Raises:
        UserError: a split is missing, or the model cannot be loaded.
    """
    splits, human = judged_splits(rows, task)
    torch.manual_seed(seed)
    model, tokenizer = _load(name, len(task.labels))
    start_state = copy.deepcopy(model.state_dict())
    model.to(device)
    longest = min(_most_positions(model), tokenizer.model_max_length)
    if not (fields := task.text_fields()):
        raise UserError(f"task {task.name}: its prompt names no text field for the encoder to read")
    inputs = {split: _tokens(members, fields, tokenizer, longest) for split, members in splits.items()}
    lengths = [len(one["input_ids"]) for one in inputs["train"]]
    target = torch.tensor(human["train"], dtype=torch.float32, device=device)
    steps = PASSES * -(-len(lengths) // BATCH)
    best: tuple[float, float, int, dict[str, Floats]] | None = None
    with tqdm(total=len(rates) * PASSES, unit="pass", desc="encoder", disable=None) as bar:
        for rate in rates:
            torch.manual_seed(seed)
            model.load_state_dict(start_state)
            optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
            schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
            for epoch in range(PASSES):
                model.train()
                order = visit_order(lengths, BATCH, seed, epoch)
                for start in range(0, len(order), BATCH):
                    chosen = order[start : start + BATCH]
                    log_q = _log_probs(model, tokenizer, [inputs["train"][index] for index in chosen])
                    F.cross_entropy(log_q, target[chosen]).backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                bar.update()
                on_dev = _predict(model, tokenizer, inputs["dev"])
                distance = float(np.mean(jsd(human["dev"], on_dev)))
                if best is None or distance < best[0]:
                    test = _predict(model, tokenizer, inputs["test"])
                    best = (distance, rate, epoch + 1, {"dev": on_dev, "test": test})
    assert best is not None
    distance, rate, passes, probs = best
    named = named_predictions(splits, probs, task.label_names)
    return Fitted(named, {"learning_rate": rate, "passes": passes}, distance)


def _load(name: str, labels: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options = {"num_labels": labels, "ignore_mismatched_sizes": True, "use_safetensors": True, "dtype": torch.float32}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**at_commit(name), trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            **at_commit(name), trust_remote_code=False, **options
        )
    except LOADING_ERRORS as error:
        raise UserError(f"{name}: no sequence classifier can be made of it ({first_line(error)})") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.pad_token is None:
        raise UserError(f"{name}: its tokenizer has no token to pad with")
    return model, tokenizer


def _most_positions(model: PreTrainedModel) -> float:
    """How many tokens a text may have: RoBERTa's positions begin behind that of padding."""
    for part in model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None) or math.inf


def _tokens(
    rows: Sequence[Row], fields: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: float
) -> list[dict[str, Any]]:
    """Tokens of each row's text: of two fields a pair, else all of them on lines of one text."""
    found, cut = [], 0
    for row in rows:
        if missing := [field for field in fields if field not in row.text]:
            raise UserError(f"row {row.id}: has no text field {', '.join(missing)}")
        texts = [row.text[field] for field in fields]
        texts = texts if len(texts) == 2 else ["\n".join(texts)]
        tokens = dict(tokenizer(*texts))
        if len(tokens["input_ids"]) > longest:
            cut += 1
            tokens = dict(tokenizer(*texts, truncation=True, max_length=int(longest)))
        found.append(tokens)
    if cut:
        log.warning(
            "%d of %d %s texts are longer than the encoder's %d tokens, and cut", cut, len(rows), rows[0].split, longest
        )
    return found


def _log_probs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[dict[str, Any]]) -> Tensor:
    """(B, K) of some texts."""
    batch = tokenizer.pad(list(texts), return_tensors="pt").to(model.device)
    kind = model.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=computes_bf16(kind)):
        logits = model(**batch).logits
    return logits.float().log_softmax(dim=-1)


@torch.inference_mode()
def _predict(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[dict[str, Any]]) -> Floats:
    """(texts, K) probabilities."""
    model.eval()
    found = [_log_probs(model, tokenizer, texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return torch.cat(found).double().softmax(dim=-1).cpu().numpy()
