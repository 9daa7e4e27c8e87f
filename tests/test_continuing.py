"""Committed prefixes and warm starts, on every backbone with every mechanism."""

from __future__ import annotations

import pytest
import torch
from small import actions, conditions, generator, tiny_config, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import FiLM
from action_heads.continuing import can_be_told_apart, random_prefixes
from action_heads.fit import FitConfig, fit
from action_heads.samplers import SAMPLERS


def last_chunk(steps: int = 12, batch: int = 4) -> torch.Tensor:
    return actions(batch, seed=5)[:, :steps]


def mixing(policy) -> bool:
    return policy.head.backbone.mixes_time


def test_begins_with_what_is_committed_bit_for_bit_and_goes_on_otherwise(policy):
    if not mixing(policy):
        pytest.skip("refused: see below")
    options = {"steps": 4, "previous": last_chunk()}
    free = policy.sample(conditions(), steps=4, generator=generator())
    held = policy.sample(conditions(), generator=generator(), committed=3, **options)
    assert torch.equal(held[:, :3], last_chunk()[:, :3])
    assert not torch.equal(held[:, 3:], free[:, 3:])  # the prefix was seen
    other = {"steps": 4, "previous": last_chunk() + 0.05}
    assert not torch.equal(policy.sample(conditions(), generator=generator(), committed=3, **other)[:, 3:], held[:, 3:])
    none = policy.sample(conditions(), generator=generator(), committed=0, **options)
    assert torch.equal(none, free)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_continues(sampler):
    policy = trained_policy(tiny_head("mixer"))
    chunk = policy.sample(conditions(), sampler=sampler, previous=last_chunk(), committed=5, generator=generator())
    assert torch.equal(chunk[:, :5], last_chunk()[:, :5])
    assert chunk.isfinite().all()


def test_a_prefix_is_shown_clean_as_clean(monkeypatch):
    """What the network sees at every evaluation: the committed steps as they are, modulated as the cleanest level."""
    policy = trained_policy(tiny_head("mixer"))
    seen, predict = [], policy.head.predict

    def spy(x, values, modulation):
        seen.append((x[:, :3].clone(), (values - policy.modulate(conditions())).clone()))
        return predict(x, values, modulation)

    monkeypatch.setattr(policy.head, "predict", spy)
    policy.sample(conditions(), steps=3, previous=last_chunk(), committed=3, generator=generator())
    table, plan = policy.step_values(), policy.head.plan("ddim", 3)
    for i, (first, values) in enumerate(seen):
        torch.testing.assert_close(first, policy.normalizer.normalize(last_chunk()[:, :3]))
        torch.testing.assert_close(values[:, :3], table[0].expand(4, 3, -1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values[:, 3:], table[plan.timesteps[i]].expand(4, 13, -1), atol=1e-5, rtol=1e-5)


def test_a_backbone_that_mixes_no_time_refuses():
    policy = trained_policy(tiny_head("mlp"))
    with pytest.raises(ValueError, match=r"mlp denoises every step of a chunk alone.*use a head that mixes time"):
        policy.sample(conditions(), previous=last_chunk(), committed=2)
    assert policy.sample(conditions(), previous=last_chunk(), start=0.5).isfinite().all()  # a warm start it can


def test_warm_start_stays_near_and_pure_noise_forgets(policy):
    previous = last_chunk(16)
    low = policy.head.plan("ddim", 1, start=0)
    assert low.timesteps.tolist() == [0]
    x0 = policy.normalizer.normalize(previous)
    near, far = (
        policy.sample(conditions(), steps=2, previous=previous, start=s, generator=generator()) for s in (0.05, 1.0)
    )
    assert far.shape == near.shape == previous.shape
    fresh = policy.sample(conditions(), steps=2, generator=generator())
    # At full noise a trace of the last chunk is left: the cosine path ends at a signal share of 0.0005.
    assert (far - fresh).abs().max() < 0.05 * (near - fresh).abs().max() + 0.02
    assert x0.isfinite().all()


def test_prefixes_are_drawn_and_not_counted():
    head = tiny_head("mixer")
    policy = trained_policy(head)
    clean = random_prefixes(head, policy.modulation, torch.Size((4000, 16, 10)), generator())
    assert 0.45 < clean[:, 0].float().mean() < 0.5  # of half, of which one in sixteen has length 0
    assert not clean[:, -1].any()
    assert (clean.int().diff(dim=1) <= 0).all()
    policy.loss(actions(), conditions(), prefixes=True, generator=generator()).backward()
    assert all(p.grad is not None for p in policy.adapter.parameters())


def test_training_with_prefixes_learns_to_continue():
    """Chunks are one of two lines: after a committed step of one, only that one is right."""
    torch.manual_seed(0)
    head = ActionHead(tiny_config("mixer", width=32, depth=2, mechanisms=("film",)))
    side = torch.randint(2, (2048, 1, 1), generator=generator()) * 1.2 - 0.6
    chunks = side.expand(-1, 16, 10).contiguous()
    policy = head.attach(FiLM(7))
    fit(policy, chunks, torch.zeros(2048, 7), config=FitConfig(steps=250, lr=3e-3, prefixes=True))
    previous = torch.tensor([0.6, -0.6]).repeat(50)[:, None, None].expand(-1, 2, 10)
    chunk = policy.sample(torch.zeros(100, 7), previous=previous, committed=2, generator=generator())
    assert (chunk[:, 2:, 0].sign() == previous[:, :1, 0].sign()).float().mean() > 0.9  # by chance 0.5


def test_prefixes_are_refused_where_steps_share_a_level(policy):
    if can_be_told_apart(policy.head, policy.modulation):
        policy.loss(actions(), conditions(), prefixes=True)
    else:
        with pytest.raises(ValueError, match=r"one noise level for a whole chunk|denoises every step"):
            policy.loss(actions(), conditions(), prefixes=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"committed": 2}, "pass what is left of it as previous"),
        ({"start": 0.5}, "pass what is left of it as previous"),
        ({"previous": last_chunk(4), "committed": 5}, "committed=5, with 4 steps left"),
        ({"previous": last_chunk(16), "committed": 16}, "fewer than a chunk"),
        ({"previous": last_chunk(4), "committed": -1}, "committed=-1"),
        ({"previous": last_chunk(4), "start": 0.0}, "above 0 and at most 1"),
        ({"previous": last_chunk(4, batch=3)}, r"previous has shape \(3, 4, 10\); expected \(4, 1 to 16, 10\)"),
        ({"previous": last_chunk(0)}, "previous has 0 steps"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        trained_policy(tiny_head("mixer")).sample(conditions(), **options)
