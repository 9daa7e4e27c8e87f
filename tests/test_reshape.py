"""Tests of reshaped heads: what trains, what stays frozen, and what is saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import COND_DIM, conditions, generator, tiny_head
from torch import nn

from action_heads import ActionHead, ActionSpace, ConditionedHead, Normalizer, adapter_file
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES
from action_heads.fit import FitConfig, fit
from action_heads.reshape import resample, trunk

JOINTS = ActionSpace((("joint", 6), ("gripper", 1)))
BIMANUAL = ActionSpace((("joint", 6), ("gripper", 1), ("joint", 6), ("gripper", 1)))
SHAPES = [(JOINTS, 16), (BIMANUAL, 48), (JOINTS, 8)]


def chunks(space: ActionSpace, horizon: int, n: int = 32) -> torch.Tensor:
    return torch.rand((n, horizon, space.dim), generator=generator()) - 0.5


def reshaped_policy(head: ActionHead, space: ActionSpace, horizon: int) -> ConditionedHead:
    mechanism = head.config.mechanisms[0]
    torch.manual_seed(0)
    reshaped = head.reshape(space=space, horizon=horizon)
    return reshaped.attach(ADAPTERS[mechanism](COND_DIM), normalizer=Normalizer.fit(chunks(space, horizon), space))


@pytest.mark.parametrize(("space", "horizon"), SHAPES)
def test_only_adapter_and_projections_train(head, space, horizon):
    policy = reshaped_policy(head, space, horizon)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    losses = fit(
        policy, chunks(space, horizon), conditions(32), config=FitConfig(steps=12, batch_size=32, warmup=1, lr=1e-2)
    )
    assert min(losses[-3:]) < losses[0]
    moved = {name for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    outside = {
        name for name in moved if not name.startswith(("adapter.", "head.backbone.embed.", "head.backbone.out."))
    }
    assert not outside
    assert {f"head.{name}" for name in policy.head.projections} <= moved
    assert policy.sample(conditions(2), generator=generator()).shape == (2, horizon, space.dim)


def test_counts_say_what_trains():
    policy = reshaped_policy(tiny_head(), BIMANUAL, 48)
    projections = 48 * (14 + 1) * 16 + (16 + 1) * 14
    assert policy.num_trainable == sum(p.numel() for p in policy.adapter.parameters()) + projections
    assert policy.num_frozen == sum(
        p.numel() for name, p in tiny_head().backbone.named_parameters() if not name.startswith(("embed.", "out."))
    ) + sum(p.numel() for p in policy.modulation.parameters())


def test_trunk_is_the_heads_bit_for_bit(head):
    reshaped = head.reshape(space=BIMANUAL)  # The horizon is the same, so nothing is resampled.
    assert len(trunk(reshaped)) > 10
    assert all(torch.equal(own, theirs) for own, theirs in zip(trunk(reshaped), trunk(head), strict=True))


def test_the_same_shape_with_the_old_projections_is_the_old_head(head):
    reshaped = head.reshape()
    reshaped.normalizer = head.normalizer
    reshaped.load_state_dict(head.state_dict())
    assert torch.equal(reshaped.sample(3, generator=generator()), head.sample(3, generator=generator()))


def test_saved_with_the_adapter(head, tmp_path):
    policy = reshaped_policy(head, BIMANUAL, 48)
    with torch.no_grad():
        for p in policy.trainable_parameters():
            p.add_(0.1 * torch.randn_like(p))
    policy.eval().save_adapter(tmp_path / "a")
    loaded = head.load_adapter(tmp_path / "a")
    assert loaded.head.config == policy.head.config
    expected = policy.sample(conditions(), generator=generator())
    assert torch.equal(loaded.sample(conditions(), generator=generator()), expected)
    other = reshaped_policy(head, BIMANUAL, 48)
    assert torch.equal(other.load_adapter(tmp_path / "a").sample(conditions(), generator=generator()), expected)
    with pytest.raises(ValueError, match=r"but this policy has .*chunks of 16 x"):
        head.attach(ADAPTERS[policy.adapter.name](COND_DIM)).load_adapter(tmp_path / "a")


def test_from_pretrained_builds_it_again(tmp_path):
    head = ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "head"))
    policy = reshaped_policy(head, JOINTS, 8)
    loaded = ConditionedHead.from_pretrained(policy.save_adapter(tmp_path / "a"))
    assert torch.equal(*(p.eval().sample(conditions(), generator=generator()) for p in (loaded, policy)))


def test_loaded_on_a_head_in_bfloat16_it_trains_in_32_bits(head, tmp_path):
    """The inner layers have the rounded values and the projections not one other bit, as after `reshape`."""
    head = ActionHead.from_pretrained(head.save_pretrained(tmp_path / "head"))
    policy = reshaped_policy(head, JOINTS, 8).eval()
    policy.save_adapter(tmp_path / "a")
    low = ConditionedHead.from_pretrained(tmp_path / "a", dtype=torch.bfloat16)
    assert {p.dtype for p in low.head.original.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in low.trainable_parameters()} == {torch.float32}
    for name, p in low.head.projections.items():
        assert torch.equal(p, policy.head.projections[name])
    rounded = trunk(low.head.original.reshape(space=JOINTS, horizon=8))
    assert all(torch.equal(p, own) for p, own in zip(trunk(low.head), rounded, strict=True))
    chunk, near = (p.sample(conditions(), generator=generator()) for p in (low, policy))
    assert (chunk - near).abs().mean() < 0.05
    torch.testing.assert_close(low.compile().sample(conditions(), generator=generator()), chunk, rtol=1e-4, atol=1e-4)
    again = ConditionedHead.from_pretrained(low.save_adapter(tmp_path / "b"))
    assert torch.equal(
        again.sample(conditions(), generator=generator()), policy.sample(conditions(), generator=generator())
    )
    fit(low, chunks(JOINTS, 8), conditions(32), config=FitConfig(steps=2))
    assert (tmp_path / "b" / "adapter.safetensors").read_bytes() == (
        tmp_path / "a" / "adapter.safetensors"
    ).read_bytes()


def test_frozen_is_still_a_promise():
    policy = reshaped_policy(tiny_head(), JOINTS, 16)
    policy.train().requires_grad_(True)
    assert not policy.head.training
    policy.head.assert_frozen()
    policy.requires_grad_(False)
    assert not any(p.requires_grad for p in policy.parameters())
    other = tiny_head(seed=1).state_dict()
    with pytest.raises(ValueError, match="is frozen, but the state to load has a different"):
        policy.head.load_state_dict(policy.head.state_dict() | {k: v for k, v in other.items() if "blocks.0.up" in k})
    next(policy.head.backbone.blocks.parameters()).requires_grad_(True)
    with pytest.raises(RuntimeError, match="frozen head were made trainable"):
        policy.head.assert_frozen()


def test_it_can_become_a_head_of_its_own(tmp_path):
    reshaped = tiny_head("mixer").reshape(space=JOINTS, horizon=8)
    loaded = ActionHead.from_pretrained(reshaped.save_pretrained(tmp_path))
    assert loaded.original is loaded
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(*(h.sample(2, generator=generator()) for h in (loaded, reshaped)))


def test_refusals():
    with pytest.raises(ValueError, match="reshape needs a frozen head"):
        ActionHead(tiny_head().config).reshape(horizon=8)
    with pytest.raises(ValueError, match=r"no statistics.*normalizer=Normalizer\.fit"):
        tiny_head().reshape(space=JOINTS).attach(ADAPTERS["film"](COND_DIM))
    for horizon in (-2, 0):
        with pytest.raises(ValueError, match="horizon must be a positive integer"):
            tiny_head().reshape(horizon=horizon)


@pytest.mark.parametrize("horizon", [1, 2, 8, 24, 50])
def test_a_map_over_time_is_the_old_one_between_two_interpolations(horizon):
    weight = torch.randn(16, 16, generator=generator())
    x, times = np.random.default_rng(0).normal(size=horizon), (np.linspace(0, 1, horizon), np.linspace(0, 1, 16))
    old = weight.double().numpy() @ (np.interp(times[1], times[0], x) if horizon > 1 else np.repeat(x, 16))
    new = np.interp(times[0], times[1], old) if horizon > 1 else old.mean(keepdims=True)
    np.testing.assert_allclose(resample(weight, horizon).double().numpy() @ x, new, atol=1e-5)
    biased = np.interp(times[0], times[1], weight[0].numpy()) if horizon > 1 else weight[0].numpy().mean(keepdims=True)
    np.testing.assert_allclose(resample(weight[0], horizon).numpy(), biased, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("horizon", [8, 16])
def test_an_adapter_of_a_release_that_resampled_otherwise_is_refused(backbone, horizon, tmp_path, monkeypatch):
    head = tiny_head(backbone)
    policy = reshaped_policy(head, JOINTS, horizon)
    monkeypatch.setattr(adapter_file, "OVER_TIME", "scaled")
    policy.save_adapter(tmp_path)
    monkeypatch.undo()
    if head.backbone.over_time and horizon != 16:
        with pytest.raises(ValueError, match=r"in chunks of 8, .* Use that release, or train the adapter again"):
            head.load_adapter(tmp_path)
    else:
        assert head.load_adapter(tmp_path).head.config == policy.head.config


@pytest.mark.parametrize("horizon", [8, 50])
def test_a_map_over_time_keeps_what_it_does(horizon):
    """A resampled map that averages the chunk still does, and so does one that shifts by a share of it."""
    old, (short, long) = 16, (torch.linspace(0, 1, n) for n in (16, horizon))
    mean = torch.full((old, old), 1 / old)
    torch.testing.assert_close(resample(mean, horizon) @ long, torch.full((horizon,), 0.5), atol=1e-4, rtol=0)
    nearby = torch.exp(-4 * (short[:, None] - short).square())
    before, after = nearby @ short, resample(nearby, horizon) @ long
    assert (
        torch.nn.functional.interpolate(before[None, None], horizon, mode="linear", align_corners=True) - after
    ).abs().max() < 0.15 * before.abs().max()
    bias = torch.arange(16.0)
    assert resample(bias, horizon)[[0, -1]].tolist() == [0.0, 15.0]


def test_every_backbone_says_what_is_open():
    for name in BACKBONES:
        head = tiny_head(name)
        projections = [p for part in head.backbone.projections for p in part.parameters()]
        assert 0 < sum(p.numel() for p in projections) < head.num_parameters / 2


def test_reshaping_again_is_from_the_original(tmp_path):
    head = tiny_head("mixer")
    twice = head.reshape(horizon=8).reshape(horizon=16)
    blocks = {name: t for name, t in head.state_dict().items() if "blocks" in name}
    assert all(torch.equal(twice.state_dict()[name], t) for name, t in blocks.items())
    saved = reshaped_policy(head, BIMANUAL, 48).save_adapter(tmp_path)
    loaded = head.reshape(horizon=8).load_adapter(saved)
    expected = head.load_adapter(saved).sample(conditions(), generator=generator())
    assert torch.equal(loaded.sample(conditions(), generator=generator()), expected)


def test_one_adapter_for_its_projections():
    policy = reshaped_policy(tiny_head(), JOINTS, 16)
    with pytest.raises(ValueError, match="already has an adapter"):
        policy.head.attach(ADAPTERS["film"](COND_DIM), normalizer=policy.normalizer)


def test_it_says_what_it_is():
    reshaped = tiny_head().reshape(space=JOINTS)
    assert reshaped.config.name == "test/tiny-reshaped"
    assert reshaped.config.training["reshaped_from"]["name"] == "test/tiny"


def test_a_projection_that_is_replaced_by_several_layers_is_noticed():
    head = tiny_head().reshape(space=JOINTS, horizon=8)
    head.backbone.out = nn.Sequential(nn.Linear(16, 7))
    with pytest.raises(RuntimeError, match="its module structure"):
        head.assert_frozen()
