"""Sentences are encoded once, kept with the weights, and never trained."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_model, save_model
from tiny_models import text_model as save_text_model
from tiny_models import vision_model

from action_heads.encoders import TextConfig
from action_heads.encoders import text as module

transformers = pytest.importorskip("transformers")
SENTENCES = ["lift the red cube", "stack", "lift the red cube"]


@pytest.fixture(autouse=True)
def forget():
    """Forget the cached text model, which would hide that its folder is gone."""
    module.text_model.cache_clear()
    yield
    module.text_model.cache_clear()


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_pools_the_tokens(distilbert, pool):
    vectors = module.TextEncoder(TextConfig(distilbert, pool=pool))(SENTENCES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    model = transformers.AutoModel.from_pretrained(distilbert).eval()
    batch = tokenizer(SENTENCES, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    counts = batch["attention_mask"][..., None]
    expected = (hidden * counts).sum(1) / (1 if pool == "sum" else counts.sum(1))
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)


def test_of_two_towers_the_text(tmp_path, distilbert):
    folder = vision_model("clip", tmp_path)
    transformers.AutoTokenizer.from_pretrained(distilbert).save_pretrained(folder)
    assert module.TextEncoder(TextConfig(folder))(SENTENCES).shape == (3, 32)


def test_each_sentence_once(distilbert, monkeypatch):
    encoder, calls = module.TextEncoder(TextConfig(distilbert)), []
    _, model = module.text_model(distilbert, None, module.folder_content(distilbert))
    model.register_forward_hook(lambda *_: calls.append(1))
    encoder.learn(SENTENCES)
    assert len(calls) == 2
    encoder(SENTENCES)
    encoder(["lift the cube", "stack"])
    assert len(calls) == 3


def test_another_model_saved_in_the_folder_is_read(tmp_path, distilbert):
    folder = shutil.copytree(distilbert, tmp_path / "own")
    vectors = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        vectors.append(module.TextEncoder(TextConfig(str(folder)))(["push the cube"]))
    assert not torch.equal(*vectors)


def test_known_sentences_need_no_model(tmp_path):
    folder = save_text_model(tmp_path / "text")
    encoder = module.TextEncoder(TextConfig(folder, features=5))
    vectors = encoder(SENTENCES)
    assert not any("embedding" in name for name in encoder.state_dict())  # None of the model itself.
    save_model(encoder, str(tmp_path / "model.safetensors"))
    shutil.rmtree(folder)
    module.text_model.cache_clear()

    again = module.TextEncoder(TextConfig(folder, features=5), encoder.architecture)
    load_model(again, str(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(again(SENTENCES), vectors)
    with pytest.raises(RuntimeError, match=r"'pick up' is not among the 2 sentences.*could not be loaded.*'stack'"):
        again(["pick up"])


def test_first_asked_for_while_acting_then_trained(distilbert):
    encoder = module.TextEncoder(TextConfig(distilbert, features=4))
    with torch.inference_mode():
        encoder(SENTENCES)
    assert not any(vector.is_inference() for vector in encoder.known.values())
    encoder(SENTENCES).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("first", ["inference", "plain"])
def test_vectors_are_copied_once_and_follow_the_module(distilbert, first):
    """A copy from the CPU in every call would wait for an accelerator."""
    encoder = module.TextEncoder(TextConfig(distilbert))
    with torch.inference_mode(first == "inference"):
        expected = encoder.double()(SENTENCES)
    held = dict(encoder._placed)
    assert torch.equal(encoder(SENTENCES), expected)
    assert held.keys() == set(SENTENCES)
    assert all(encoder._placed[sentence] is pair for sentence, pair in held.items())
    assert not any(vector.is_inference() for _, vector in held.values())
    assert encoder.float()(SENTENCES).dtype == torch.float32
    assert encoder.to("meta")(SENTENCES).is_meta
    state = encoder.state_dict()
    encoder.to_empty(device="cpu").load_state_dict(state | {"vectors": state["vectors"] + 1})
    torch.testing.assert_close(encoder(SENTENCES), expected.float() + 1)


def test_the_model_is_no_parameter(distilbert):
    encoder = module.TextEncoder(TextConfig(distilbert))
    encoder(SENTENCES)
    assert list(encoder.parameters()) == []
    assert encoder(SENTENCES).requires_grad is False


def test_states_of_another_model_or_none_are_refused(distilbert):
    encoder = module.TextEncoder(TextConfig(distilbert))
    encoder.learn(SENTENCES)
    state = encoder.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*vectors"):
        encoder.load_state_dict({"sentences": state["sentences"]})
    with pytest.raises(RuntimeError, match=r"vectors have shape \(2, 7\); expected \(2, 24\)"):
        encoder.load_state_dict(state | {"vectors": torch.zeros(2, 7)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        encoder.load_state_dict(state | {"other": torch.zeros(1)})


def test_unknown_model_names_the_field(tmp_path):
    with pytest.raises(ValueError, match=r"text.model .* could not be found.*distilbert-base-uncased"):
        module.TextEncoder(TextConfig(str(tmp_path)))
