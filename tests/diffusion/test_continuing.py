"""Tests of committed prefixes and warm starts, on every backbone with every mechanism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import actions, conditions, generator, tiny_config, tiny_head, trained_policy

from action_heads import ActionHead
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES
from action_heads.diffusion.continuing import random_prefixes, takes_levels_per_step
from action_heads.diffusion.samplers import SAMPLERS, Sampling
from action_heads.fit import FitConfig, fit


def last_chunk(steps: int = 12, batch: int = 4) -> torch.Tensor:
    return actions(batch, seed=5)[:, :steps]


def mixing(policy) -> bool:
    return policy.head.backbone.mixes_time


# The other backbones raise an error: see `test_training_shows_prefixes_clean_and_counts_the_rest`.
where_time_is_mixed = pytest.mark.parametrize(
    ("backbone", "mechanism"),
    [(name, m) for name, kind in BACKBONES.items() if kind.mixes_time for m in kind.mechanisms],
)


@where_time_is_mixed
def test_begins_with_what_is_committed_bit_for_bit_and_goes_on_otherwise(policy):
    options = {"steps": 4, "previous": last_chunk()}
    free = policy.sample(conditions(), steps=4, generator=generator())
    held = policy.sample(conditions(), generator=generator(), committed=3, **options)
    assert torch.equal(held[:, :3], last_chunk()[:, :3])
    assert not torch.equal(held[:, 3:], free[:, 3:])  # The network used the prefix.
    other = {"steps": 4, "previous": last_chunk() + 0.05}
    assert not torch.equal(policy.sample(conditions(), generator=generator(), committed=3, **other)[:, 3:], held[:, 3:])
    numpy = policy.sample(conditions(), generator=generator(), committed=np.int64(3), **options)
    assert torch.equal(numpy, held)
    none = policy.sample(conditions(), generator=generator(), committed=0, **options)
    assert torch.equal(none, free)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_continues(sampler):
    policy = trained_policy(tiny_head("mixer"))
    chunk = policy.sample(conditions(), sampler=sampler, previous=last_chunk(), committed=5, generator=generator())
    assert torch.equal(chunk[:, :5], last_chunk()[:, :5])
    assert chunk.isfinite().all()


@where_time_is_mixed
def test_a_prefix_is_shown_clean_at_every_level(policy, monkeypatch):
    """The network sees committed time steps without noise, modulated as the cleanest level where levels may differ."""
    seen, predict = [], policy.head.predict

    def spy(x, values, modulation):
        seen.append((x[:, :3].clone(), (values - policy.modulate(conditions())).clone()))
        return predict(x, values, modulation)

    monkeypatch.setattr(policy.head, "predict", spy)
    policy.sample(conditions(), steps=3, previous=last_chunk(), committed=3, generator=generator())
    table, plan = policy.step_values(), policy.head.plan(Sampling("ddim", 3))
    for (first, values), t in zip(seen, plan.timesteps, strict=True):
        torch.testing.assert_close(first, policy.normalizer.normalize(last_chunk()[:, :3]))
        levels = t.expand(4, 1)
        if takes_levels_per_step(policy.head, policy.modulation):
            levels = t.repeat(4, 16)
            levels[:, :3] = 0
        torch.testing.assert_close(values, table[levels], atol=1e-5, rtol=1e-5)


def test_a_backbone_that_mixes_no_time_refuses():
    policy = trained_policy(tiny_head("mlp"))
    message = r"mlp denoises every time step of a chunk independently.*Use a head that mixes time"
    with pytest.raises(ValueError, match=message):
        policy.sample(conditions(), previous=last_chunk(), committed=2)
    assert policy.sample(conditions(), previous=last_chunk(), start=0.5).isfinite().all()  # A warm start works.


def test_warm_start_stays_near_and_pure_noise_forgets(policy):
    previous = last_chunk(16)
    low = policy.head.plan(Sampling("ddim", 1), first_level=0)
    assert low.timesteps.tolist() == [0]
    x0 = policy.normalizer.normalize(previous)
    near, far = (
        policy.sample(conditions(), steps=2, previous=previous, start=s, generator=generator()) for s in (0.05, 1.0)
    )
    assert far.shape == near.shape == previous.shape
    fresh = policy.sample(conditions(), steps=2, generator=generator())
    # At full noise a trace of the previous chunk remains, since the cosine path ends at a signal share of 0.0005.
    assert (far - fresh).abs().max() < 0.05 * (near - fresh).abs().max() + 0.02
    assert x0.isfinite().all()


def test_warm_start_begins_with_the_last_chunk_and_its_end_repeated(monkeypatch):
    """The network first sees the previous chunk, its last action repeated, with noise from the same generator."""
    policy = trained_policy(tiny_head("mixer"))
    seen, predict = [], policy.head.predict
    monkeypatch.setattr(policy.head, "predict", lambda x, *rest: seen.append(x.clone()) or predict(x, *rest))
    policy.sample(conditions(), steps=2, previous=last_chunk(), start=0.6, generator=generator())
    x0 = policy.normalizer.normalize(torch.cat([last_chunk(), last_chunk()[:, -1:].expand(-1, 4, -1)], dim=1))
    noise = policy.head.noise(4, generator())
    _, sigma = policy.head.objective.shares(torch.arange(policy.head.config.objective.train_steps))
    t = (sigma - 0.6).abs().argmin()
    torch.testing.assert_close(seen[0], policy.head.objective.add_noise(x0, noise, t[None, None]))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_low_start_takes_as_many_steps_as_there_are_levels(sampler):
    policy = trained_policy(tiny_head("mixer"))
    chunk = policy.sample(conditions(), sampler=sampler, previous=last_chunk(), start=0.05, generator=generator())
    assert chunk.isfinite().all()


def test_prefixes_are_drawn():
    head = tiny_head("mixer")
    clean = random_prefixes(head, torch.Size((4000, 16, 10)), generator())
    assert 0.45 < clean[:, 0].float().mean() < 0.5  # Half have a prefix; of these, one in sixteen has length 0.
    assert not clean[:, -1].any()
    assert (clean.int().diff(dim=1) <= 0).all()


def test_training_shows_prefixes_clean_and_counts_the_rest(policy, monkeypatch):
    """Training with prefixes works on every backbone that mixes time, with every mechanism; others raise an error."""
    if not mixing(policy):
        with pytest.raises(ValueError, match="denoises every time step of a chunk independently"):
            policy.loss(actions(), conditions(), prefixes=True)
        return
    head, g = policy.head, generator(3)
    x0 = policy.normalizer.normalize(actions(32))
    t = head.objective.random_steps((32, 1), g)
    noise = head.objective.random_noise(x0.shape, g)
    clean = random_prefixes(head, x0.shape, g)
    assert 0.1 < clean.float().mean() < 0.4
    seen, predict = [], head.predict
    monkeypatch.setattr(head, "predict", lambda *given: seen.append((*given[:2], predict(*given))) or seen[-1][-1])
    loss = policy.loss(actions(32), conditions(32), prefixes=True, generator=generator(3))
    x, values, output = seen[0]
    torch.testing.assert_close(x[clean], x0[clean])
    torch.testing.assert_close(x[~clean], head.objective.add_noise(x0, noise, t)[~clean])
    levels = t.masked_fill(clean, 0) if takes_levels_per_step(head, policy.modulation) else t
    torch.testing.assert_close(values, policy.step_values(levels) + policy.modulate(conditions(32)))
    torch.testing.assert_close(loss, (output - x0).square().mean(-1)[~clean].mean())


@where_time_is_mixed
def test_targets_at_clean_steps_do_not_count(policy, monkeypatch):
    g, objective = generator(3), policy.head.objective
    drawn = {"prefixes": True, "generator": g}
    losses = [policy.loss(actions(32), conditions(32), **drawn)]
    g.manual_seed(3)
    objective.random_steps((32, 1), g), objective.random_noise((32, 16, 10), g)
    clean = random_prefixes(policy.head, torch.Size((32, 16, 10)), g)
    target = objective.target
    for where in (clean, ~clean):
        monkeypatch.setattr(objective, "target", lambda *given, at=where: target(*given) + at[..., None])
        g.manual_seed(3)
        losses.append(policy.loss(actions(32), conditions(32), **drawn))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("backbone", "mechanism"), [("mixer", "film"), ("unet", "film"), ("transformer", "prefix")])
def test_training_with_prefixes_learns_to_continue(backbone, mechanism):
    """Every chunk is one of two lines; after committed actions of one line, the policy continues that line."""
    torch.manual_seed(0)
    head = ActionHead(tiny_config(backbone, width=16, depth=2, mechanisms=(mechanism,)))
    side = torch.randint(2, (2048, 1, 1), generator=generator()) * 1.2 - 0.6
    chunks = side.expand(-1, 16, 10).contiguous()
    policy = head.attach(ADAPTERS[mechanism](7))
    fit(policy, chunks, torch.zeros(2048, 7), config=FitConfig(steps=150, lr=5e-3, ema=0.98, prefixes=True))
    previous = torch.tensor([0.6, -0.6]).repeat(50)[:, None, None].expand(-1, 4, 10)
    chunk = policy.sample(torch.zeros(100, 7), previous=previous, committed=4, generator=generator())
    assert (chunk[:, 4:, 0].sign() == previous[:, :1, 0].sign()).float().mean() > 0.85  # 0.5 by chance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"committed": 2}, "committed=2 and start=None need previous. Pass the rest of the previous chunk"),
        ({"start": 0.5}, "committed=None and start=0.5 need previous"),
        ({"previous": last_chunk(4), "committed": 5}, "committed=5 is out of range: previous has 4 time steps"),
        ({"previous": last_chunk(16), "committed": 16}, "fewer than a chunk"),
        ({"previous": last_chunk(4), "committed": -1}, "committed=-1"),
        ({"previous": last_chunk(4), "start": 0.0}, "above 0 and at most 1 .*; got 0.0"),
        (
            {"previous": last_chunk(4, batch=3), "start": 0.5},
            r"previous has shape \(3, 4, 10\); expected \(4, 1 to 16, 10\)",
        ),
        ({"previous": last_chunk(0), "committed": 1}, "previous has 0 time steps"),
        ({"previous": last_chunk()}, "previous has no effect without committed= or start="),
        ({"previous": last_chunk().numpy(), "committed": 1}, "got a ndarray; convert it with torch.as_tensor"),
        ({"previous": last_chunk().tolist(), "start": 0.5}, "got a list; convert it with torch.as_tensor"),
        ({"previous": last_chunk().to("meta"), "committed": 1}, r"on meta, but .* on cpu. Use previous.to\('cpu'\)"),
        ({"previous": last_chunk() / 0, "committed": 1}, "NaN or infinite"),
        ({"previous": last_chunk(), "committed": 2.0}, r"an integer, a number of time steps; got 2\.0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        trained_policy(tiny_head("mixer")).sample(conditions(), **options)


@pytest.mark.parametrize("start", [True, "0.5", float("nan"), 0.0, -0.1, 1.5])
def test_a_start_that_is_no_share_of_noise_is_refused(start):
    policy = trained_policy(tiny_head())
    with pytest.raises(ValueError, match="start must be"):
        policy.sample(conditions(), previous=last_chunk(), start=start)
