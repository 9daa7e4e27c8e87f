"""Tests of the samplers against diffusers' schedulers with the same arbitrary network, and against a known ODE."""

from __future__ import annotations

import math
from inspect import signature

import diffusers
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from small import conditions, generator, tiny_head, trained_policy

from action_heads.diffusion import samplers
from action_heads.diffusion.noise_schedule import noise_path
from action_heads.diffusion.objectives import PREDICTIONS, Objective, ObjectiveConfig
from action_heads.diffusion.samplers import Sampling

PATH = noise_path(ObjectiveConfig())
SAMPLERS = sorted(samplers.SAMPLERS)
MANY = [name for name in SAMPLERS if name != "one_step"]
THEIR_NAMES = {"x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}


def network(x: torch.Tensor, t: int) -> torch.Tensor:
    """Return any smooth function of x and t."""
    return torch.tanh(0.7 * x.roll(1, dims=-1) + 0.01 * t) - 0.2 * x


def start() -> torch.Tensor:
    return torch.randn(4, 16, 10, generator=generator(1))


def run(plan: samplers.Schedule, prediction: str, x: torch.Tensor, clip: float = 1e6) -> torch.Tensor:
    objective = Objective(ObjectiveConfig(prediction=prediction, clip=clip))

    def predict_x0(x, i):
        t = plan.timesteps[i]
        return objective.to_x0(network(x, int(t)), x, t[None, None])

    noise = generator(3)
    return samplers.run(plan, x, predict_x0, lambda: torch.randn(x.shape, generator=noise))


# ── parity with diffusers ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
def test_parity_with_diffusers(kind, steps, spacing, prediction):
    scheduler = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[kind](
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        prediction_type=THEIR_NAMES.get(prediction, prediction),
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(steps)
    # DDIM in diffusers keeps the unclipped ε by default. We derive ε from the clipped chunk, which is its other option.
    options = {"use_clipped_model_output": True} if kind == "ddim" else {}
    x, noise = start(), generator(3)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, int(t)), t, x, generator=noise, **options).prev_sample
    ours = run(samplers.schedule(kind, PATH, steps, spacing=spacing), prediction, start(), clip=1.0)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 100])
@pytest.mark.parametrize("kind", ["dpmpp_2m", "euler"])
def test_parity_with_diffusers_unclipped(kind, steps, spacing, prediction):
    """Samplers that do not clip in diffusers agree at our noise levels; its 2M visits other levels for "leading"."""
    plan = samplers.schedule(kind, PATH, steps, spacing=spacing)
    common = {
        "num_train_timesteps": 100,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": THEIR_NAMES.get(prediction, prediction),
    }
    x = start()
    if kind == "euler":
        scheduler = diffusers.EulerDiscreteScheduler(**common)
        scheduler.set_timesteps(timesteps=plan.timesteps.tolist())
        x = x * (scheduler.sigmas[0] ** 2 + 1).sqrt()  # diffusers samples x/α
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **common, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
        )
        scheduler.set_timesteps(timesteps=plan.timesteps.tolist())
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), int(t)), t, x).prev_sample
    # In diffusers x/α starts in the thousands, and x_0 from an ε prediction too, so float32 loses digits.
    torch.testing.assert_close(run(plan, prediction, start()), x, rtol=1e-3, atol=1e-3 if kind == "euler" else 1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 100])
@pytest.mark.parametrize("kind", ["dpmpp_2m", "euler", "heun"])
def test_parity_with_diffusers_on_the_straight_path(kind, steps):
    if (
        kind == "dpmpp_2m"
        and "use_flow_sigmas" not in signature(diffusers.DPMSolverMultistepScheduler.__init__).parameters
    ):
        pytest.skip("diffusers before 0.32 has no DPM-Solver++ on the straight path")
    plan = samplers.schedule(kind, noise_path(ObjectiveConfig(prediction="flow")), steps)
    scheduler = {
        "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(
            100, use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
        ),
        "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(100),
        "heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(100),
    }[kind]()
    scheduler.set_timesteps(steps)
    # The noise of our level t is (t + 1)/100; diffusers would visit other levels.
    visited = (plan.timesteps + 1) / 100
    scheduler.timesteps = visited * 100
    scheduler.sigmas = torch.cat([visited, torch.zeros(1)])
    x = start()
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, int(plan.timesteps[i])), t, x).prev_sample
    torch.testing.assert_close(run(plan, "flow", start()), x, rtol=0, atol=1e-5)


# ── against the ODE ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", ["ddim", "heun"])
def test_one_ode_for_all_paths(kind, prediction):
    """Textbook steps of x̄ = x/(α + σ) over s = σ/(α + σ) give the same chunk as our sampler on any noise path."""
    objective = Objective(ObjectiveConfig(prediction=prediction, clip=1e6))
    plan = samplers.schedule(kind, noise_path(objective.config), 10)
    visited = plan.timesteps.unique().flip(0)
    alpha, sigma = objective.shares(torch.arange(objective.config.train_steps))
    size, share = alpha + sigma, sigma / (alpha + sigma)

    def slope(x, t):
        x_t = x * size[t]
        return objective.convert(network(x_t, int(t)), x_t, t[None, None], to="flow")

    x = start() / size[visited[0]]
    for t, after in zip(visited, [*visited[1:], None], strict=True):
        if after is None:
            x = x - share[t] * slope(x, t)
            continue
        way, here = share[after] - share[t], slope(x, t)
        there = slope(x + way * here, after) if kind == "heun" else here
        x = x + way * (here + there) / 2
    torch.testing.assert_close(run(plan, prediction, start()), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", MANY)
def test_one_gaussian_is_sampled_exactly(sampler, prediction):
    """With the ideal denoiser of N(0, 0.5²), 100 steps reach a standard deviation of 0.5 (ancestral ones nearly)."""
    config = ObjectiveConfig(prediction=prediction, clip=100.0)
    objective, path = Objective(config), noise_path(config)
    plan = samplers.schedule(sampler, path, 100)
    alpha, sigma = (part.float() for part in path)

    def predict_x0(x, i):
        t = plan.timesteps[i]
        x0 = x * alpha[t] * 0.25 / (alpha[t] ** 2 * 0.25 + sigma[t] ** 2)
        noise = (x - alpha[t] * x0) / sigma[t]
        return objective.to_x0(objective.target(x0, noise, t[None, None]), x, t[None, None])

    g = generator(4)
    x = samplers.run(
        plan, torch.randn(512, 16, 10, generator=g), predict_x0, lambda: torch.randn(512, 16, 10, generator=g)
    )
    assert abs(x.std().item() - 0.5) < 0.02


FAR, SPREAD = 0.6, 0.3  # Two Gaussians at ± FAR: x̂_0 is known, and is not linear in x.


def two_modes(x, alpha, sigma):
    """Return the ideal x̂_0 and ε̂ of two Gaussians."""
    power = alpha**2 * SPREAD**2 + sigma**2
    side = FAR * torch.tanh(alpha * FAR * x / power)
    return (alpha * SPREAD**2 * x + sigma**2 * side) / power, sigma * (x - alpha * side) / power


def even_path() -> samplers.Path:
    """Return 1280 levels at equal distances in log α/σ, which is smooth in every solver's own coordinates."""
    power = (2 * torch.linspace(9, -6, 1280, dtype=torch.float64)).sigmoid()
    return power.sqrt(), (1 - power).sqrt()


PATHS = {
    "even": even_path(),
    "straight": noise_path(ObjectiveConfig(prediction="flow", train_steps=1280)),
    "cosine": noise_path(ObjectiveConfig(train_steps=1280)),
}


def errors(sampler: str, path: str, steps: tuple[int, ...], first: int | None) -> list[float]:
    """Return the largest distance from the exact solution of the ODE, for each number of steps."""
    alpha, sigma = PATHS[path]
    plans = [samplers.schedule(sampler, PATHS[path], n, first_level=first) for n in steps]
    x = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)
    t = plans[0].timesteps[0]

    def slope(s, straight):
        x0, noise = two_modes(torch.from_numpy(straight), 1 - s, s)
        return (noise - x0).numpy()

    size = float(alpha[t] + sigma[t])
    exact = solve_ivp(slope, (float(sigma[t]) / size, 0.0), (x / size).numpy(), rtol=1e-9, atol=1e-9).y[:, -1]

    def distance(plan):
        def predict_x0(x, i):
            return two_modes(x, alpha[plan.timesteps[i]], sigma[plan.timesteps[i]])[0]

        return float((samplers.run(plan, x, predict_x0, lambda: x) - torch.from_numpy(exact)).abs().max())

    return [distance(plan) for plan in plans]


@pytest.mark.parametrize("first", [None, 639])
@pytest.mark.parametrize(
    ("sampler", "path", "order"),
    [
        ("euler", "even", 1),
        ("dpmpp_2m", "even", 2),
        ("heun", "even", 2),
        ("euler", "straight", 1),
        ("heun", "straight", 2),
    ],
)
def test_order_of_convergence(sampler, path, order, first):
    """The error falls as 1/steps^order, both from pure noise and from a level halfway."""
    found = errors(sampler, path, (20, 40, 80, 160), first)
    assert abs(math.log2(found[0] / found[-1]) / 3 - order) < 0.15, found


@pytest.mark.parametrize("first", [None, 639])
@pytest.mark.parametrize("path", ["straight", "cosine"])
def test_second_order_pays(path, first):
    """Second-order samplers are more accurate than Euler's at 79 or 80 evaluations on the noise paths of heads.

    The exact order is not reached there. Near the clean end the levels of the straight path lie far apart in 2M's
    coordinate, log α/σ, and those of the cosine path lie far apart in Heun's coordinate s.
    """
    euler, two_m = (errors(name, path, (80,), first)[0] for name in ("euler", "dpmpp_2m"))
    assert two_m < 0.2 * euler
    assert errors("heun", path, (40,), first)[0] < 0.5 * euler


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 100])
def test_trailing_starts_at_pure_noise(steps):
    t = samplers.timesteps(100, steps)
    assert t[0] == 99
    assert (t.diff() < 0).all()
    assert len(t) == steps


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_starts_later(sampler, prediction):
    """A warm start takes as many steps, and ends at the clean chunk if the network predicts it."""
    path = noise_path(ObjectiveConfig(prediction=prediction))
    plan = samplers.schedule(sampler, path, first_level=30)
    assert plan.timesteps[0] == 30
    assert plan.evaluations == samplers.schedule(sampler, path).evaluations
    x0 = start().clamp(-1, 1)
    x = samplers.run(plan, path[0][30] * x0 + path[1][30] * start(), lambda x, i: x0, start)
    torch.testing.assert_close(x, x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("sampler", "evaluations"), [("heun", 13), ("dpmpp_2m", 7), ("euler", 7)])
def test_evaluations(sampler, evaluations):
    assert samplers.schedule(sampler, PATH, 7).evaluations == evaluations


@pytest.mark.parametrize("path", [PATH, noise_path(ObjectiveConfig(prediction="flow"))])
@pytest.mark.parametrize("sampler", MANY)
def test_one_step_of_any_sampler_is_one_step(sampler, path):
    one, plan = samplers.one_step(path), samplers.schedule(sampler, path, 1)
    for name in ("timesteps", "x0", "x"):
        torch.testing.assert_close(getattr(plan, name), getattr(one, name))


def test_ddim_with_eta_one_is_ancestral():
    a, b = samplers.ddim(PATH, 10, eta=1.0), samplers.ddpm(PATH, 10)
    for name in ("timesteps", "x0", "x", "noise"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loop_is_one_graph(sampler):
    """The loop compiles to one graph, since it reads no number on the host, which would wait for an accelerator."""
    plan = samplers.schedule(sampler, PATH, None if sampler == "one_step" else 3)

    def loop(x):
        return samplers.run(plan, x, lambda x, i: torch.tanh(x + plan.timesteps[i]), lambda: torch.ones_like(x))

    assert torch.equal(torch.compile(loop, backend="eager", fullgraph=True)(start()), loop(start()))


# ── through a policy ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_generator_makes_samples_reproducible(sampler):
    policy = trained_policy(tiny_head())
    one, same = (policy.sample(conditions(), sampler=sampler, generator=generator(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, policy.sample(conditions(), sampler=sampler, generator=generator(6)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_stay_where_the_head_works(sampler, prediction):
    policy = trained_policy(tiny_head(objective=ObjectiveConfig(prediction=prediction)))
    x = policy.normalizer.normalize(policy.sample(conditions(), sampler=sampler, generator=generator(5)))
    assert x.isfinite().all()
    assert x.abs().max() < 1 + 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2.5}, "must be an integer"),
        ({"steps": 0}, "between 1 and 100, the noise levels of the head; got 0"),
        ({"steps": 101}, "between 1 and 100, the noise levels of the head"),
        ({"sampler": "rk45"}, "choose one of ddim, ddpm, dpmpp_2m, euler, heun, one_step"),
        ({"spacing": "linspace"}, "choose one of trailing, leading"),
        ({"sampler": "one_step", "steps": 10}, "got steps=10.*Leave both out"),
        ({"sampler": "one_step", "spacing": "leading"}, "one evaluation at the noisiest level"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(ValueError, match=message):
        trained_policy(tiny_head()).sample(conditions(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_level": 100}, "integer between 0 and 99, got 100"),
        ({"first_level": -1}, "integer between 0 and 99"),
        ({"first_level": 4}, "between 1 and 5, the noise levels from 4 down.*; got 10"),
    ],
)
def test_bad_first_levels(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_head().plan(Sampling("heun", 10), **options)


def test_counts_may_be_numpy_s():
    """NumPy integers, which come out of a table or a sweep, work like Python's."""
    found = samplers.timesteps(100, np.int64(10), first_level=np.int32(50))  # pyright: ignore
    assert torch.equal(found, samplers.timesteps(100, 10, first_level=50))
    for wrong in (np.float64(10), 10.0, np.int64(0)):
        with pytest.raises(ValueError, match="steps must be an integer"):
            samplers.timesteps(100, wrong)  # pyright: ignore
