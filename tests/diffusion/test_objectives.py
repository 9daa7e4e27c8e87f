"""Tests of noise paths and conversions against diffusers."""

from __future__ import annotations

import diffusers
import pytest
import torch

from action_heads.diffusion.noise_schedule import noise_path, squaredcos_cap_v2
from action_heads.diffusion.objectives import PREDICTIONS, Objective, ObjectiveConfig


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_noise_levels_are_diffusers(steps):
    theirs = diffusers.DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(squaredcos_cap_v2(steps).float(), theirs, rtol=0, atol=1e-6)


def test_add_noise_is_diffusers():
    scheduler = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    x0, noise, t = torch.randn(5, 16, 10), torch.randn(5, 16, 10), torch.tensor([0, 3, 50, 98, 99])
    ours = Objective(ObjectiveConfig()).add_noise(x0, noise, t[:, None])
    torch.testing.assert_close(ours, scheduler.add_noise(x0, noise, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_prediction_gives_x0_back(prediction):
    objective = Objective(ObjectiveConfig(prediction=prediction))
    x0, noise = torch.rand(64, 16, 10) * 2 - 1, torch.randn(64, 16, 10)
    t = torch.arange(64)[:, None]
    x_t = objective.add_noise(x0, noise, t)
    back = objective.to_x0(objective.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-4)


def test_a_level_for_each_step_of_a_chunk():
    objective = Objective(ObjectiveConfig())
    x0, noise, t = torch.randn(2, 16, 10), torch.randn(2, 16, 10), torch.randint(100, (2, 16))
    mixed = objective.add_noise(x0, noise, t)
    one = objective.add_noise(x0[:, 5:6], noise[:, 5:6], t[:, 5:6])
    assert torch.equal(mixed[:, 5:6], one)


def test_tables_keep_32_bits():
    objective = Objective(ObjectiveConfig()).to(torch.bfloat16)
    shares, expected = objective.shares(torch.arange(100)), Objective(ObjectiveConfig()).shares(torch.arange(100))
    assert shares[0].dtype == torch.float32
    assert all(map(torch.equal, shares, expected))


def test_v_is_diffusers():
    scheduler = diffusers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    x0, noise, t = torch.randn(5, 16, 10), torch.randn(5, 16, 10), torch.tensor([0, 3, 50, 98, 99])
    ours = Objective(ObjectiveConfig(prediction="v")).target(x0, noise, t[:, None])
    torch.testing.assert_close(ours, scheduler.get_velocity(x0, noise, t), rtol=0, atol=1e-5)


def test_flow_ends_at_pure_noise():
    objective = Objective(ObjectiveConfig(prediction="flow"))
    alpha, sigma = objective.shares(torch.arange(100))
    torch.testing.assert_close(alpha + sigma, torch.ones(100))
    assert alpha[-1] == 0


@pytest.mark.parametrize("wrong", [{"prediction": "score"}, {"train_steps": 0}, {"clip": -1.0}])
def test_bad_config(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectiveConfig(**wrong)


def mixed(prediction: str):
    """Return a float64 objective, x0, noise, x_t, and levels t at which every prediction determines x0."""
    objective = Objective(ObjectiveConfig(prediction=prediction))
    objective.shares = lambda t: tuple(share.float().double()[t] for share in noise_path(objective.config))
    x0, noise = torch.rand(99, 16, 10).double() * 2 - 1, torch.randn(99, 16, 10).double()
    t = torch.arange(99)[:, None]
    return objective, x0, noise, objective.add_noise(x0, noise, t), t


@pytest.mark.parametrize("to", PREDICTIONS)
@pytest.mark.parametrize("of", PREDICTIONS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_convert_there_and_back(prediction, of, to):
    objective, *_, x_t, t = mixed(prediction)
    output = torch.randn_like(x_t)
    there = objective.convert(output, x_t, t, to=to, of=of)
    torch.testing.assert_close(objective.convert(there, x_t, t, to=of, of=to), output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", PREDICTIONS)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_conversion_is_what_another_head_of_this_path_would_say(prediction, to):
    objective, x0, noise, x_t, t = mixed(prediction)
    found = objective.convert(objective.target(x0, noise, t), x_t, t, to=to)
    other = Objective(ObjectiveConfig(prediction=to if to != "flow" else "x0"))
    expected = noise - x0 if to == "flow" else other.target(x0, noise, t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_flow_reads_as_the_angle_that_it_turns_by():
    """A flow converts to v, the derivative along the circle α = cos φ, σ = sin φ."""
    objective, x0, noise, x_t, t = mixed("flow")
    alpha, sigma = objective.shares(t[..., None])
    angle = torch.atan2(sigma, alpha)
    v = objective.convert(noise - x0, x_t, t, to="v")
    torch.testing.assert_close(v, angle.cos() * noise - angle.sin() * x0, rtol=0, atol=1e-6)


def test_own_prediction_converts_to_x0_as_in_sampling():
    for prediction in PREDICTIONS:
        objective = Objective(ObjectiveConfig(prediction=prediction, clip=1e6))
        output, x_t, t = torch.randn(99, 16, 10), torch.randn(99, 16, 10), torch.arange(99)[:, None]
        x0 = objective.convert(output, x_t, t, to="x0")
        torch.testing.assert_close(x0, objective.to_x0(output, x_t, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"to": "score"}, {"to": "x0", "of": "score"}])
def test_unknown_conversions(wrong):
    objective, *_, x_t, t = mixed("x0")
    with pytest.raises(ValueError, match="unknown prediction 'score'; choose one of epsilon, x0, v, flow"):
        objective.convert(x_t, x_t, t, **wrong)
