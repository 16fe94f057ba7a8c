from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts.label_token import LabelTree, label_log_probs, label_tree
from tests.tiny import tiny_model

END = 9
WORDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8, unique=True)


@settings(max_examples=200, deadline=None)
@given(WORDS)
def test_a_tree_leads_to_every_label_once(words):
    tree = LabelTree([(*word, END) for word in words])
    for label, word in enumerate(words):
        spoken = (*word, END)
        for branching in tree.branchings:
            path, node = [], branching.node
            while node >= 0:
                path.append(tree.tokens[node])
                node = tree.parents[node]
            path = tuple(reversed(path))
            below = [i for i, labels in enumerate(branching.labels) if label in labels]
            assert len(below) == (spoken[: len(path)] == path)
            if below:
                assert branching.token_ids[below[0]] == spoken[len(path)]


def test_probabilities_are_those_of_plain_scoring(tiny_lm):
    """Against a forward pass for each label, renormalised by hand at every place where words part."""
    model = tiny_model(tiny_lm).eval()
    builder = PromptBuilder(model)
    tokenizer = model.tokenizer
    prompts = [builder.prompt({"comment": comment}, None) for comment in ("oh no", "a rather longer comment")]
    words = [[*tokenizer(" " + label.word)["input_ids"], tokenizer.eos_token_id] for label in model.task.labels]
    with torch.no_grad():
        found = label_log_probs(model, label_tree(model), builder.batch(prompts))
        assert found.exp().sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
        for row, prompt in enumerate(prompts):
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            for label, word in enumerate(words):
                expected = 0.0
                for depth in range(len(word)):
                    rivals = sorted({w[depth] for w in words if w[:depth] == word[:depth]})
                    logits = model(input_ids=torch.tensor([ids + word[:depth]])).logits[0, -1, rivals]
                    expected += logits.log_softmax(0)[rivals.index(word[depth])].item()
                assert found[row, label].item() == pytest.approx(expected, abs=1e-4)


def test_labels_that_begin_alike_are_told_apart(tiny_lm):
    model = tiny_model(tiny_lm).eval()
    tree = label_tree(model)
    assert len(tree.branchings) == 2, "anger parts at once; disgust and disapproval part after their common beginning"
    builder = PromptBuilder(model)
    probs = label_log_probs(model, tree, builder.batch([builder.prompt({"comment": "x"}, None)])).exp()[0]
    assert probs[1] != probs[2]
