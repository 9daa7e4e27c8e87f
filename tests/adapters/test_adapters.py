"""Tests of properties that every adapter has, whatever its mechanism."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads import ObjectiveConfig
from action_heads.adapters import ADAPTERS, AdaLNZero, FiLM
from action_heads.adapters.adarmsnorm import AdaRMSNormModulation
from action_heads.adapters.config import THROUGH
from action_heads.diffusion.objectives import PREDICTIONS
from action_heads.fit import FitConfig, fit


def test_fresh_adapter_is_the_unconditional_head(head, mechanism):
    """A fresh adapter samples the same chunks as the unconditional head, bit for bit."""
    policy = head.attach(ADAPTERS[mechanism](COND_DIM))
    conditioned = policy.sample(conditions(3), steps=5, generator=generator())
    assert torch.equal(conditioned, head.sample(3, mechanism=mechanism, steps=5, generator=generator()))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_all_predictions_train_and_sample(prediction, backbone, mechanism):
    head = tiny_head(backbone, objective=ObjectiveConfig(prediction=prediction))
    policy = trained_policy(head, mechanism)
    policy.loss(actions(), conditions()).backward()
    assert any(p.grad.abs().sum() > 0 for p in policy.adapter.parameters())
    position = policy.sample(conditions(), generator=generator())[..., :3]
    low, high = head.normalizer.unnormalize(-torch.ones(10)), head.normalizer.unnormalize(torch.ones(10))
    assert ((position >= low[:3] - 1e-5) & (position <= high[:3] + 1e-5)).all()


def test_condition_matters_once_trained(policy):
    one, other = (policy.sample(conditions(2, seed), generator=generator()) for seed in (1, 2))
    assert (one - other).abs().max() > 1e-4


def test_mechanisms_differ(head):
    samples = [head.sample(2, mechanism=name, generator=generator()) for name in head.config.mechanisms]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(samples))


def test_tokens_are_pooled_over_the_mask(head):
    policy = trained_policy(head)
    tokens = torch.randn(2, 5, COND_DIM, generator=generator())
    mask = torch.tensor([[True, True, True, False, False], [True, True, True, True, True]])
    tokens[0, 3:] = float("nan")  # The values of padding must not matter.
    pooled = torch.stack([tokens[0, :3].mean(0), tokens[1].mean(0)])
    masked = policy.sample(tokens, mask=mask, generator=generator())
    torch.testing.assert_close(masked, policy.sample(pooled, generator=generator()))


def test_standardize_is_saved_and_tolerates_constants(head, tmp_path):
    policy = head.attach(ADAPTERS[head.config.mechanisms[0]](COND_DIM))
    cond = 50 + 3 * torch.randn(100, COND_DIM)
    cond[:, 2] = 4.0
    policy.adapter.standardize(cond)
    seen = policy.adapter.standard(cond)
    assert seen.mean(0).abs().max() < 1e-4
    assert (seen.std(0, correction=0)[[0, 1, 3]] - 1).abs().max() < 1e-3
    assert (seen[:, 2] == 0).all()
    loaded = head.load_adapter(policy.save_adapter(tmp_path / "a"))
    assert torch.equal(loaded.adapter.standard.mean, policy.adapter.standard.mean)


def test_standardizing_keeps_32_bits():
    """Standardising stays in float32, since bfloat16 would lose the deviations of an embedding far from zero."""
    head = tiny_head()
    policy = trained_policy(head)
    cond = 1000 + torch.randn(50, COND_DIM, generator=generator())
    policy.adapter.standardize(cond)
    reference = policy.sample(cond, generator=generator())
    low = copy.deepcopy(policy).to(torch.bfloat16)
    assert (low.sample(cond, generator=generator()) - reference).abs().mean() < 0.05


def test_rms_norm_is_pi0s():
    """The norm is x / sqrt(mean(x²) + ε) · weight, without centring or bias, as in π0.5."""
    norm, x = torch.nn.LayerNorm(8), torch.randn(2, 3, 8)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.fill_(9.0)
    expected = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
    got = AdaRMSNormModulation(torch.zeros(2, 1, 24)).normalize(x, norm)
    torch.testing.assert_close(got, expected)


def test_relearning_starts_from_the_heads_step_modulation(head, mechanism):
    policy = head.attach(ADAPTERS[mechanism](COND_DIM, relearn_step=True))
    plain = head.attach(ADAPTERS[mechanism](COND_DIM))
    # One is a table and one is computed row by row, so they are equal except for the order of sums.
    torch.testing.assert_close(policy.step_values(), plain.step_values())
    assert policy.num_trainable > plain.num_trainable
    assert policy.num_frozen < plain.num_frozen


def test_reading_costs_the_bottleneck_not_a_map_a_block():
    """Reading a 2048-d embedding takes less than a million parameters."""
    head = tiny_head(width=256, depth=8)
    policy = head.attach(AdaLNZero(2048))
    assert sum(p.numel() for p in policy.adapter.read.parameters()) < 1_000_000


@pytest.mark.parametrize("cond_dim", [0, -3, 2.5, None])
def test_bad_width_is_refused(cond_dim):
    with pytest.raises(ValueError, match="cond_dim must be a positive integer"):
        AdaLNZero(cond_dim)


def test_unknown_mechanism_for_this_head():
    head = tiny_head(mechanisms=("film",))
    with pytest.raises(ValueError, match=r"pretrained for film, not for 'adaln_zero'"):
        head.attach(AdaLNZero(COND_DIM))


@pytest.mark.parametrize("through", THROUGH)
def test_paths_train_what_they_declare_and_start_at_nothing(head, mechanism, through):
    policy = head.attach(ADAPTERS[mechanism](COND_DIM, through=through))
    fresh = policy.sample(conditions(), generator=generator())
    assert torch.equal(fresh, head.sample(4, mechanism=mechanism, generator=generator()))
    names = {name.split(".")[0] for name, _ in policy.adapter.named_parameters()}
    assert names == {"read"} | {"code": {"aim"}, "blocks": {"generate"}, "both": {"aim", "generate"}}[through]
    before = head.fingerprint()
    fit(policy, actions(32), conditions(32), config=FitConfig(steps=3, batch_size=8))
    assert head.fingerprint() == before
    assert not torch.equal(policy.sample(conditions(), generator=generator()), fresh)


def test_an_adapter_takes_what_the_head_has():
    assert tiny_head().attach(ADAPTERS["film"](COND_DIM)).adapter.config.through == "both"
    assert tiny_head(coded=False).attach(ADAPTERS["film"](COND_DIM)).adapter.config.through == "blocks"
    with pytest.raises(ValueError, match=r"pretrained without one. Use through='blocks'"):
        tiny_head(coded=False).attach(ADAPTERS["film"](COND_DIM, through="code"))
    with pytest.raises(ValueError, match="unknown path 'layers' for through; choose one of 'code', 'blocks', 'both'"):
        ADAPTERS["film"](COND_DIM, through="layers")


def test_an_adapter_through_the_code_is_small():
    small, full = (tiny_head(width=64).attach(ADAPTERS["film"](COND_DIM, through=t)) for t in ("code", "blocks"))
    assert small.num_trainable < full.num_trainable / 10


def test_a_code_for_every_step_moves_that_step_alone(tmp_path):
    """A time step's own code moves only that time step of an `mlp`; equal codes give the plain adapter's chunk."""
    head = tiny_head()
    policy = head.attach(AdaLNZero(COND_DIM, through="code", per_step=True))
    fresh = policy.sample(conditions(), generator=generator())
    assert torch.equal(fresh, head.sample(4, mechanism="adaln_zero", generator=generator()))
    bias = policy.adapter.aim.bias.view(head.config.horizon, head.config.rank)
    with torch.no_grad():
        bias[3] += 1
    moved = (policy.sample(conditions(), generator=generator()) != fresh).flatten(2).any(-1).any(0)
    assert moved.nonzero().flatten().tolist() == [3]

    plain = trained_policy(head, "adaln_zero", through="code")
    with torch.no_grad():
        policy.adapter.read.load_state_dict(plain.adapter.read.state_dict())
        policy.adapter.aim.weight.copy_(plain.adapter.aim.weight.repeat(head.config.horizon, 1))
        policy.adapter.aim.bias.copy_(plain.adapter.aim.bias.repeat(head.config.horizon))
    expected = plain.sample(conditions(), generator=generator())
    torch.testing.assert_close(policy.sample(conditions(), generator=generator()), expected)
    loaded = head.load_adapter(policy.save_adapter(tmp_path))
    torch.testing.assert_close(loaded.sample(conditions(), generator=generator()), expected)
    before = head.fingerprint()
    assert fit(policy, actions(32), conditions(32), config=FitConfig(steps=3, batch_size=8))
    assert head.fingerprint() == before


@pytest.mark.parametrize(
    ("backbone", "mechanism", "through"),
    [("mlp", "adaln_zero", "blocks"), ("unet", "film", "code"), ("transformer", "prefix", "code")],
)
def test_codes_for_every_step_are_refused_where_there_are_none(backbone, mechanism, through):
    with pytest.raises(ValueError, match=f"per_step=True does not work here, with through='{through}'"):
        tiny_head(backbone).attach(ADAPTERS[mechanism](COND_DIM, through=through, per_step=True))


@pytest.mark.parametrize("width", [np.int64(8), {"tokens": np.int32(8), "state": 3}])
def test_numpys_whole_numbers_are_widths(head, width, tmp_path):
    policy = head.attach(FiLM(cond_dim=width))
    saved = policy.save_adapter(tmp_path)
    assert head.load_adapter(saved).adapter.config == policy.adapter.config


@pytest.mark.parametrize("width", [True, 8.0, np.float32(8), "8"])
def test_other_widths_are_refused(width):
    with pytest.raises(ValueError, match="cond_dim must be a positive integer"):
        FiLM(cond_dim=width)
