"""A tap keeps its promise on what trains and on the mode, or raises an error when another tap has changed it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("tqdm")

import tiny_vlms
from transformers import Qwen3Config, Qwen3ForCausalLM

from action_heads.vlm import Tap, embed

INPUTS = tiny_vlms.inputs("qwen3")


@pytest.fixture
def model() -> Any:
    """Return a model with dropout."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**tiny_vlms.TEXT, attention_dropout=0.5)).eval()


def trainable(tap: Tap) -> int:
    return sum(p.requires_grad for p in tap.model.parameters())


@pytest.mark.parametrize("other", [{"layer": 3}, {"layer": 1, "train": "full"}, {"layer": 2, "train": "lora"}])
def test_a_newer_tap_that_freezes_what_an_older_one_trains(model, other):
    if other.get("train") == "lora":
        pytest.importorskip("peft")
    older = Tap(model, 2, train="full")
    count = trainable(older)
    newer = Tap(model, **other)
    for use in (lambda: older(**INPUTS), older.trainable_parameters):
        with pytest.raises(RuntimeError, match=r"another tap of the same Qwen3.* was made later.*Load the model again"):
            use()
    training = model.training
    older.train(not training)  # The mode belongs to the newer tap.
    assert model.training == training
    newer(**INPUTS)
    if other.get("train") != "lora":  # A LoRA stays in the model.
        older.requires_grad_().train()
        assert older(**INPUTS)[0].requires_grad
        assert trainable(older) == count


def test_a_newer_tap_that_trains_more_leaves_an_older_one_as_it_was(model):
    older, newer = Tap(model, 1, train="full"), Tap(model, 2, train="full")
    assert set(older.trainable_parameters()) == set(newer.trainable_parameters())
    assert older(**INPUTS)[0].requires_grad


def test_parameters_that_the_user_freezes_are_the_users(model):
    tap = Tap(model, 2, train="full")
    model.model.embed_tokens.requires_grad_(False)
    assert tap(**INPUTS)[0].requires_grad
    tap.requires_grad_(False)
    assert not tap(**INPUTS)[0].requires_grad
    assert not list(tap.trainable_parameters())


def train_by_hand(model: nn.Module, tap: Tap) -> None:
    model.train()


def train_a_part(model: nn.Module, tap: Tap) -> None:
    model.get_submodule("model.layers.0").train()


def train_another_tap(model: nn.Module, tap: Tap) -> None:
    Tap(model, 2, train="full")


@pytest.mark.parametrize("how", [train_by_hand, train_a_part, train_another_tap])
def test_a_frozen_tap_never_runs_in_training_mode(model, how, tmp_path):
    tap = Tap(model, 2)
    expected, key = tap(**INPUTS)[0], tap.identity()
    how(model, tap)
    for use in (lambda: tap(**INPUTS), tap.identity, lambda: embed(tap, [INPUTS], tmp_path)):
        with pytest.raises(RuntimeError, match=r"this tap is frozen, but .* is in training mode"):
            use()
    assert not list(tmp_path.iterdir())
    if how is train_another_tap:
        assert tap.train().model.training  # The mode belongs to the tap that trains.
        model.eval()
    else:
        tap.train()  # As a trainer does. A frozen tap puts its model back into evaluation mode.
    assert torch.equal(tap(**INPUTS)[0], expected)
    assert tap.identity() == key


def test_a_model_that_leaves_evaluation_mode_during_a_call(model, tmp_path):
    """Tokens that were computed in training mode are neither returned nor cached."""
    tap = Tap(model, 2)
    model.model.layers[0].register_forward_hook(lambda *_: model.train() and None)
    with pytest.raises(RuntimeError, match="is in training mode"):
        embed(tap, [{name: x[:1] for name, x in INPUTS.items()}], tmp_path)
    assert not list(tmp_path.iterdir())


def test_train_of_a_frozen_tap_never_switches_the_model_to_training(model, monkeypatch):
    """Another thread may run the model at that moment."""
    tap, modes = Tap(model, 2), []
    block = model.model.layers[0]
    monkeypatch.setattr(type(block), "train", lambda self, mode=True: modes.append(mode) or nn.Module.train(self, mode))
    tap.train()
    assert modes
    assert not any(modes)


def test_two_taps_in_one_policy(model):
    """`train()` and `eval()` of a module reach both taps, and the one that trains decides."""
    frozen, training = Tap(model, 3), Tap(model, 2, train="full")
    policy = nn.ModuleList([training, frozen])
    policy.train()
    assert model.training
    policy.eval()
    assert not model.training
    assert torch.equal(frozen(**INPUTS)[0], frozen(**INPUTS)[0])
