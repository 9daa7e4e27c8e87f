"""Tests of the training modes: what each shares with the pretrained head, and what it does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head

from action_heads import ActionHead, ActionSpace
from action_heads.adapters import ADAPTERS, AdaLNZero, FiLM
from action_heads.fit import FitConfig, fit
from action_heads.modes import MODES, shaped

FRESH = [mode for mode in MODES if mode != "decoupled"]


def moved(head: ActionHead, mode: str) -> set[str]:
    """Train in a mode, by the same code for each, and return the names of the parameters that changed."""
    policy = head.in_mode(mode).attach(ADAPTERS["film"](COND_DIM))
    before = {name: p.clone() for name, p in policy.named_parameters()}
    fit(policy, actions(32), conditions(32), config=FitConfig(steps=3, batch_size=8))
    return {name.split(".")[0] for name, p in policy.named_parameters() if not torch.equal(p, before[name])}


def test_modes_differ_in_what_trains(head):
    assert moved(head, "decoupled") == moved(head, "random-frozen") == {"adapter"}
    assert moved(head, "normal") == {"adapter", "head"}


def test_decoupled_is_the_head_itself():
    head = tiny_head()
    assert head.in_mode("decoupled") is head
    with pytest.raises(ValueError, match=r"this one is trainable; call head\.freeze\(\)"):
        ActionHead(head.config).in_mode("decoupled")


@pytest.mark.parametrize("mode", FRESH)
def test_fresh_heads_share_all_but_the_weights(head, mode):
    fresh = head.in_mode(mode)
    assert fresh.config.contract() == head.config.contract()
    assert fresh.config.name == f"test/tiny-{mode}"
    assert torch.equal(fresh.normalizer.scale, head.normalizer.scale)
    assert fresh.normalizer is not head.normalizer
    assert fresh.frozen == (mode == "random-frozen")
    assert not any(torch.equal(a, b) for a, b in zip(fresh.parameters(), head.parameters(), strict=True) if a.ndim > 1)


def test_a_fresh_head_has_no_record():
    head = tiny_head(training={"data": ["somewhere"], "steps": 9})
    assert head.in_mode("normal").config.training == {}
    assert head.config.training["steps"] == 9


def test_the_seed_decides_and_the_callers_is_left_alone():
    head = tiny_head()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (head.in_mode("random-frozen", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert head.in_mode("normal", seed=1).fingerprint() == other.fingerprint()  # Modes differ only in what trains.


def test_what_is_frozen_keeps_its_precision_and_what_trains_has_32_bits():
    head = tiny_head().to(torch.bfloat16)
    assert {p.dtype for p in head.in_mode("random-frozen").parameters()} == {torch.bfloat16}
    assert {p.dtype for p in head.in_mode("normal").parameters()} == {torch.float32}
    policy = head.in_mode("random-frozen").attach(ADAPTERS["film"](COND_DIM))
    policy.sample(conditions(), generator=generator())


def test_refusals():
    with pytest.raises(ValueError, match="unknown mode 'frozen'; choose one of decoupled, random-frozen, normal"):
        tiny_head().in_mode("frozen")
    reshaped = tiny_head().reshape(horizon=8)
    assert reshaped.in_mode("decoupled") is reshaped
    with pytest.raises(ValueError, match=r"Reshape a random head instead.*in_mode\('random-frozen'\)\.reshape"):
        reshaped.in_mode("random-frozen")
    with pytest.raises(ValueError, match=r"build a new head with ActionHead\(head\.config\)"):
        reshaped.in_mode("normal")
    assert tiny_head().in_mode("random-frozen").reshape(horizon=8).config.horizon == 8


def test_every_fresh_head_is_seeded_apart_from_stage_1():
    """No random head has the weights that Stage 1 started from, which are the first that a seed draws."""
    pretrained = tiny_head()
    other = ActionSpace((("joint", 7), ("gripper", 1)))
    for seed in (0, 1):
        torch.manual_seed(seed)
        began = ActionHead(dataclasses.replace(pretrained.config, space=other))
        fresh = shaped(pretrained, "normal", seed, other)
        assert not torch.equal(fresh.backbone.blocks[0].up.weight, began.backbone.blocks[0].up.weight)
        again = shaped(pretrained, "normal", seed, other)
        assert torch.equal(fresh.backbone.blocks[0].up.weight, again.backbone.blocks[0].up.weight)


@pytest.mark.parametrize("relearn_step", [False, True])
def test_a_head_that_trains_takes_adapters_that_use_the_same_modulation(relearn_step):
    """The modulation of the first would stop training when another is attached."""
    normal = tiny_head().in_mode("normal")
    first = normal.attach(FiLM(COND_DIM, relearn_step=relearn_step))
    count = first.num_trainable
    with pytest.raises(ValueError, match="trains along with another adapter, which does not use its modulation"):
        normal.attach(AdaLNZero(COND_DIM))
    assert first.num_trainable == count
    normal.attach(FiLM(COND_DIM, relearn_step=relearn_step))
