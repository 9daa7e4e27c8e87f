"""`torch.compile` of a policy's loss and sample gives the same numbers at any batch size, also at an epoch's end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads.adapters.condition_reader import POOLS
from action_heads.backbones import BACKBONES
from action_heads.diffusion.levels import LEVELS
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.policy import ConditionedHead

BATCHES = (3, 4, 1)  # the second is traced with a symbolic size, and one row is a size of its own


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(policy: ConditionedHead, call: str, backend: str = "eager", tokens: bool = False, **options: Any) -> None:
    """Check that a call compiled once gives the plain call's numbers and random state at every batch size."""
    plain = getattr(policy, call)
    compiled = torch.compile(plain, backend=backend)
    for batch in BATCHES:
        given: dict[str, Any] = {"cond": conditions(batch)} | options
        if tokens:
            mask = torch.ones(batch, 5, dtype=torch.bool)
            mask[0, 3:] = False
            given |= {"cond": torch.randn(batch, 5, COND_DIM, generator=generator(1)), "mask": mask}
        if call == "loss":
            given["actions"] = actions(batch)
        if "committed" in options or "start" in options:
            given["previous"] = actions(batch)
        found = []
        for function in (plain, compiled):
            torch.manual_seed(0)
            found.append((function(**given), torch.rand(())))
        (expected, next_expected), (got, next_got) = found
        if backend == "eager":  # other backends draw other numbers
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
            assert next_got == next_expected
        assert got.shape == expected.shape
        assert got.isfinite().all()


def small(backbone: str, mechanism: str | None = None, **options: Any) -> ConditionedHead:
    return trained_policy(tiny_head(backbone, depth=2 if backbone == "unet" else 1), mechanism, **options)


@pytest.mark.parametrize("call", ["loss", "sample"])
def test_every_mechanism(mechanism, call):
    backbone = next(name for name in BACKBONES if mechanism in BACKBONES[name].mechanisms)
    check(small(backbone, mechanism), call, **({"steps": 1} if call == "sample" else {}))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("call", ["loss", "sample"])
def test_every_pool_under_a_mask(pool, call):
    check(small("mlp", pool=pool), call, tokens=True, **({"steps": 1} if call == "sample" else {}))


@pytest.mark.parametrize("levels", LEVELS)
def test_every_distribution_of_levels(levels):
    check(small("mlp"), "loss", levels=levels)


def test_prefixes_and_repeated_noise():
    check(small("mixer"), "loss", prefixes=True, noise_samples=2)


@pytest.mark.parametrize("options", [{"committed": 4}, {"start": 0.5}], ids=str)
def test_continuing(options):
    check(small("mixer"), "sample", steps=2, **options)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler):
    check(small("mlp"), "sample", sampler=sampler)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["loss", "sample"])
def test_every_backbone_with_every_mechanism(backbone, mechanism, call):
    check(small(backbone, mechanism), call)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["loss", "sample"])
def test_inductor(call):
    check(small("mlp"), call, backend="inductor")


def test_a_training_step():
    """The gradients of a compiled loss equal those of the plain loss at each batch size."""
    policy = small("mlp")
    compiled = torch.compile(policy.loss, backend="eager")
    for batch in BATCHES:
        grads = []
        for loss in (policy.loss, compiled):
            policy.zero_grad()
            torch.manual_seed(0)
            loss(actions(batch), conditions(batch)).backward()
            grads.append([p.grad.clone() for p in policy.trainable_parameters()])
        for expected, got in zip(*grads, strict=True):
            torch.testing.assert_close(got, expected)
