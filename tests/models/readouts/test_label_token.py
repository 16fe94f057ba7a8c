from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, MistralConfig, Qwen3NextConfig

from shala_audio.models.prompts import PromptBuilder
from shala_audio.models.readouts import label_token
from shala_audio.models.readouts.label_token import LabelTree, shared_beginning
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Label, Task
from tests.tiny import SPEECH_TASK, label_log_probs, plain_log_probs, random_features, tiny_config, tiny_model

END = 9
WORDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=8, unique=True)


@settings(max_examples=200)
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
        found = label_log_probs(model, builder.batch(prompts))
        assert found.exp().sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
        for row, prompt in enumerate(prompts):
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            assert found[row].tolist() == pytest.approx(plain_log_probs(model, ids, words), abs=1e-4)


def test_labels_that_begin_alike_are_told_apart(tiny_lm):
    model = tiny_model(tiny_lm).eval()
    tree = model.readout.tree
    assert len(tree.branchings) == 2, "anger parts at once; disgust and disapproval part after their common beginning"
    builder = PromptBuilder(model)
    probs = label_log_probs(model, builder.batch([builder.prompt({"comment": "x"}, None)])).exp()[0]
    assert probs[1] != probs[2]


def test_a_shared_beginning_changes_neither_values_nor_gradients(tiny_lm, tiny_encoder, monkeypatch):
    """Against one row at a time, where nothing is shared: for words of several tokens and for sound."""
    monkeypatch.setattr(label_token, "WORTH_SHARING", 1)
    for encoder in (None, tiny_encoder):
        model = tiny_model(tiny_lm, encoder).eval()
        builder = PromptBuilder(model)
        features = random_features(4) if encoder else None
        comments = ("oh no", "a rather longer comment", "oh", "oh no, not")
        texts = [{} if encoder else {"comment": comment} for comment in comments]
        frames = [clip.shape[1] for clip in features] if features else [None] * 4
        prompts = [builder.prompt(text, count) for text, count in zip(texts, frames, strict=True)]
        batch = builder.batch(prompts, features)
        assert shared_beginning(batch["input_ids"], batch["attention_mask"], model.model.audio_token_id) > 5

        def gradients(log_probs, model=model):
            model.zero_grad()
            (log_probs * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
            return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        together = label_log_probs(model, batch)
        shared = gradients(together)
        alone = torch.cat(
            [
                label_log_probs(model, builder.batch([prompt], [features[row]] if features else None))
                for row, prompt in enumerate(prompts)
            ]
        )
        assert torch.allclose(together, alone, atol=1e-5)
        for name, expected in gradients(alone).items():
            assert torch.allclose(shared[name], expected, atol=1e-4 * expected.abs().max() + 1e-7), name


@pytest.mark.parametrize("worth, passes", [(1, 2), (10_000, 1)])
def test_a_beginning_is_shared_where_it_is_worth_a_pass(tiny_lm, monkeypatch, worth, passes):
    monkeypatch.setattr(label_token, "WORTH_SHARING", worth)
    model = tiny_model(tiny_lm).eval()
    builder, lengths = PromptBuilder(model), []
    model.model.register_forward_hook(lambda module, _, outputs: lengths.append(outputs.last_hidden_state.shape[1]))
    label_log_probs(model, builder.batch([builder.prompt({"comment": c}, None) for c in ("a", "b")]))
    assert len(lengths) == passes


def test_a_beginning_is_not_shared_where_activations_are_computed_again(tiny_lm):
    """Its keys and values would have to be kept; asked of the layers alone, since a decoder has thousands of modules."""
    model = tiny_model(tiny_lm).train()
    assert model.model.shares_prompts()
    model.model.decoder.gradient_checkpointing_enable()
    assert not model.model.shares_prompts() and model.eval().model.shares_prompts()


def test_attention_that_adds_its_mask_hides_the_same(tiny_lm, monkeypatch):
    """Models without torch's attention (Gemma 2, gpt-oss) add the mask to the scores."""
    monkeypatch.setattr(label_token, "WORTH_SHARING", 1)
    found = []
    for kind in ("sdpa", "eager"):
        model = tiny_model(tiny_lm).eval()
        model.model.decoder.set_attn_implementation(kind)
        assert model.model.decoder.config._attn_implementation == kind
        builder = PromptBuilder(model)
        batch = builder.batch(
            [builder.prompt({"comment": comment}, None) for comment in ("oh no", "oh no, much longer")]
        )
        found.append(label_log_probs(model, batch))
    assert torch.allclose(found[0], found[1], atol=1e-5)


SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WINDOWED = {
    "mistral": MistralConfig(**SMALL, num_hidden_layers=2, head_dim=8, sliding_window=8),
    "gemma3_text": Gemma3TextConfig(
        **SMALL, num_hidden_layers=2, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3_next": Qwen3NextConfig(
        **SMALL, num_hidden_layers=2, head_dim=8, layer_types=["linear_attention", "full_attention"], num_experts=0,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WINDOWED)
def test_layers_that_do_not_keep_everything_give_the_models_own_probabilities(tiny_lm, tmp_path, kind):
    """A mask of all places was not for them: nodes of the tree saw beyond the window, or each other and what fills up a batch."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(WINDOWED[kind]).eval()
    lm.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path)
    words = ("disgust", "distance", "disapproval", "joyful", "joyous")
    labels = tuple(Label(word, word) for word in words)
    task = Task("t", "text", labels, "{{ text.comment }}", "It is")
    model = tiny_model(tmp_path, task=task).eval()
    assert not model.model.sees(math.inf) and len(model.readout.tree.paths()) > 1
    assert model.model.sees(8) == (kind != "qwen3_next") and not model.model.sees(9)
    builder = PromptBuilder(model)
    prompts = [
        builder.prompt({"comment": text}, None) for text in ("oh no", "well, that went great, as everybody says")
    ]
    assert len(builder.token_ids(prompts)[0]) > 8, "longer than the window"
    with torch.no_grad():
        found = label_log_probs(model, builder.batch(prompts))
        for row, ids in enumerate(builder.token_ids(prompts)):
            expected = plain_log_probs(model, ids, model.readout.words)
            assert found[row].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_summary_token_reaches_the_label_words_past_the_layers(tiny_lm, tiny_encoder):
    """The state that the words are read from has the summary token added, and no other sound."""
    config = replace(tiny_config(tiny_lm, tiny_encoder), summary_token=True)
    model = SpeechLM.build(config, replace(SPEECH_TASK, labels=SPEECH_TASK.labels[:2]), "label_token").eval()
    clips = random_features(2)
    builder = PromptBuilder(model)
    batch = builder.batch([builder.prompt({}, clip.shape[1]) for clip in clips], clips)
    tree = model.readout.tree
    (branching,) = tree.branchings  # all tokens before it are the words' common beginning
    with torch.no_grad():
        found = label_log_probs(model, batch)
        path = torch.tensor(tree.tokens).expand(2, -1)
        batch["input_ids"] = torch.cat([batch["input_ids"], path], dim=1)
        batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(path)], dim=1)
        hidden = model.model(**batch).last_hidden_state[:, -1]
        summary = model.model.audio_adapter(batch["audio_features"], batch["audio_lengths"])[0][:, 0]
        expected = model.lm_head(hidden + summary)[:, branching.token_ids].log_softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
