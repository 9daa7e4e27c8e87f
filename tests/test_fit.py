"""Tests of `fit`."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head

from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, cosine, fit


@lru_cache
def run(seed: int = 0, **noise):
    torch.manual_seed(0)
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    losses = fit(policy, actions(64), conditions(64), config=FitConfig(steps=80, lr=1e-2, seed=seed, **noise))
    return policy, losses


def test_learns_and_keeps_the_head():
    before = tiny_head().fingerprint()
    policy, losses = run()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not policy.training
    assert policy.head.fingerprint() == before


def test_is_deterministic_by_seed():
    policies = [run(0)[0], run.__wrapped__(0)[0], run(1)[0]]
    samples = [policy.sample(conditions(), generator=generator()) for policy in policies]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("noise", [{"levels": "last"}, {"levels": "beta", "noise_samples": 4}])
def test_noise_is_an_option(noise):
    _, losses = run(**noise)
    assert losses != run()[1]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_rows_must_agree():
    policy = tiny_head().attach(AdaLNZero(COND_DIM))
    with pytest.raises(ValueError, match="same number of rows, one for each chunk; got 8, 4"):
        fit(policy, actions(8), conditions(4))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"warmup": 0}, {"batch_size": 0}, {"precision": "fp8"}, {"levels": "all"}, {"noise_samples": 0}],
)
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FitConfig(**wrong)


def test_learning_rate_warms_up_and_ends_at_zero():
    config = FitConfig(steps=1000, lr=1.0, warmup=10)
    assert cosine(0, config) < 0.11
    assert cosine(10, config) > 0.99
    assert cosine(999, config) < 1e-5
