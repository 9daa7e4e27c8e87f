"""Samplers as tables of coefficients for one common loop.

Every denoising step computes x, m ← a·x̂_0 + b·x + c·z + d·m, e·x̂_0 + f·x, with noise z and memory m. A sampler is a
function from the noise path (α, σ) and a number of denoising steps to a `Schedule`, which holds the coefficients of
every step. It knows no network, and nothing in the loop leaves the device.

Axes: k network evaluations, b batch, h horizon, a action, T noise levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from action_heads._util.limits import check_choice

SPACINGS = ("trailing", "leading")
STEPS, STEPS_OF = 10, {"one_step": 1}  # the defaults: for any sampler, and by name


class Memory(NamedTuple):
    """The memory that a second-order sampler carries from step to step: its weight in each step, and its contents."""

    use: Tensor  # (k,), weight of the memory in x
    x0: Tensor  # (k,), share of x̂_0 in the next memory
    x: Tensor  # (k,), share of x in the next memory


@dataclass(frozen=True)
class Schedule:
    """A sampler's plan: the noise levels to visit, noisiest first, and the coefficients of each step, all (k,).

    Attributes:
        timesteps: noise levels t, named as in diffusers.
        x0: coefficients of the predicted clean chunk x̂_0.
        x: coefficients of the noisy chunk x.
        noise: coefficients of fresh noise z; None for a deterministic sampler.
        memory: the memory; None for a first-order sampler.
    """

    timesteps: Tensor
    x0: Tensor
    x: Tensor
    noise: Tensor | None = None
    memory: Memory | None = None

    @property
    def evaluations(self) -> int:
        """Number k of network evaluations."""
        return len(self.timesteps)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tables of this plan."""
        given = (self.timesteps, self.x0, self.x, self.noise, *(self.memory or ()))
        return tuple(table for table in given if table is not None)

    def to(self, device: torch.device) -> Schedule:
        noise = None if self.noise is None else self.noise.to(device)
        memory = None if self.memory is None else Memory(*(table.to(device) for table in self.memory))
        return Schedule(self.timesteps.to(device), self.x0.to(device), self.x.to(device), noise, memory)


def timesteps(train_steps: int, steps: int, spacing: str = "trailing", first_level: int | None = None) -> Tensor:
    """Return the noise levels to visit (steps,) on the CPU, noisiest first, the same as in diffusers.

    Each step leads to the next visited level. diffusers instead goes `train_steps // steps` levels down, which differs
    if that division has a remainder.

    Args:
        train_steps: number T of noise levels.
        steps: number of denoising steps.
        spacing: "trailing" starts at pure noise, which matters with one or two steps. "leading" ends at level 0 and is
            the paper's configuration.
        first_level: the noisiest level, for a chunk that is partly known; all steps are then spent at or below it.

    Raises:
        ValueError: an argument is out of range.
    """
    if first_level is not None and not (isinstance(first_level, Integral) and 0 <= first_level < train_steps):
        raise ValueError(f"first_level must be an integer between 0 and {train_steps - 1}, got {first_level}")
    levels = train_steps if first_level is None else first_level + 1
    if not isinstance(steps, Integral) or not 1 <= steps <= levels:
        which, remedy = "of the head", ""
        if first_level is not None:
            which = f"from {first_level} down, where the warm start begins"
            remedy = f". Set steps={levels} or fewer, or raise the share of noise: warm_start= or, in sample, start="
        raise ValueError(
            f"steps must be an integer between 1 and {levels}, the noise levels {which}; got {steps}{remedy}"
        )
    check_choice("spacing", spacing, SPACINGS)
    if spacing == "leading":
        return (torch.arange(steps, device="cpu") * (levels // steps)).flip(0)
    return torch.arange(steps, 0, -1, dtype=torch.float64, device="cpu").mul(levels / steps).round().long() - 1


@dataclass(frozen=True)
class Sampling:
    """The sampler settings of `Acts.sample`. `schedule` checks them."""

    sampler: str = "ddim"
    steps: int | None = None
    spacing: str = "trailing"

    @property
    def evaluations(self) -> int:
        """The largest number of network evaluations that a chunk takes."""
        steps = max(1, STEPS_OF.get(self.sampler, STEPS) if self.steps is None else self.steps)
        return 2 * steps - 1 if self.sampler == "heun" else steps


Path = tuple[Tensor, Tensor]  # The shares of signal and noise (α, σ), each (T,), from almost clean to noise.


def ddim(
    path: Path, steps: int, spacing: str = "trailing", first_level: int | None = None, eta: float = 0.0
) -> Schedule:
    """Plan DDIM (Song et al. 2021, eq. 12).

    ε is derived from the clipped x̂_0, so that x_t stays at its noise level. `eta` scales the fresh noise, 0 for none.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), fresh = visit(path, steps, spacing, first_level)
    noise = eta * fresh.sqrt() * sigma_next / sigma
    x = (sigma_next**2 - noise**2).clamp(min=0).sqrt() / sigma
    return Schedule(t, (alpha_next - x * alpha).float(), x.float(), noise.float() if eta > 0 else None)


def ddpm(path: Path, steps: int, spacing: str = "trailing", first_level: int | None = None) -> Schedule:
    """Plan DDPM's ancestral sampling (Ho et al. 2020, eq. 6 and 7, with the smaller variance)."""
    t, (alpha, sigma), (alpha_next, sigma_next), fresh = visit(path, steps, spacing, first_level)
    x = alpha / alpha_next * (sigma_next / sigma) ** 2
    noise = fresh.sqrt() * sigma_next / sigma
    return Schedule(t, (alpha_next * fresh / sigma**2).float(), x.float(), noise.float())


def euler(path: Path, steps: int, spacing: str = "trailing", first_level: int | None = None) -> Schedule:
    """Plan Euler's method for the probability-flow ODE, which is DDIM under the name used in flow matching.

    Both keep x̂_0 and ε constant during a step and change only their shares. This holds in the coordinates x, x/α and
    x/(α + σ) alike.
    """
    return ddim(path, steps, spacing, first_level)


def one_step(path: Path, steps: int = 1, spacing: str = "trailing", first_level: int | None = None) -> Schedule:
    """Plan one evaluation at pure noise, whose x̂_0 is the chunk; for heads trained at high noise levels."""
    if steps != 1 or spacing != "trailing":
        raise ValueError(
            f"the sampler 'one_step' does one evaluation at the noisiest level, got steps={steps} and "
            f"spacing={spacing!r}. Leave both out, or choose another sampler, such as 'euler'."
        )
    return ddim(path, steps, spacing, first_level)


def dpmpp_2m(path: Path, steps: int, spacing: str = "trailing", first_level: int | None = None) -> Schedule:
    """Plan DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), which extrapolates from this x̂_0 and the previous one.

    The first step has no previous x̂_0, and the last step is infinitely long in λ = log α/σ. These two steps are of
    first order, as in DDIM.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), _ = visit(path, steps, spacing, first_level)
    width = (alpha_next / sigma_next).log() - (alpha / sigma).log()  # length of each step in λ
    share = torch.zeros_like(width)
    # A step from pure noise is infinitely long too, so the step after it gets the share 0.
    share[1:-1] = width[1:-1] / width[:-2] / 2
    x = sigma_next / sigma
    x0 = alpha_next - x * alpha
    memory = Memory((-share * x0).float(), torch.ones_like(x).float(), torch.zeros_like(x).float())
    return Schedule(t, ((1 + share) * x0).float(), x.float(), memory=memory)


def heun(path: Path, steps: int, spacing: str = "trailing", first_level: int | None = None) -> Schedule:
    """Plan Heun's method (Karras et al. 2022, algorithm 1): 2·steps - 1 evaluations, two at each inner level.

    In the coordinates x̄ = x/(α + σ), s = σ/(α + σ), the ODE is dx̄/ds = (x̄ - x̂_0)/s on every noise path. Karras et al.
    use x/α and σ/α instead. There the cosine path falls from σ/α = 2,000 to 64 within one level, so the mean of two
    slopes approximates the step poorly.

    The predictor takes an Euler step and remembers x̄ + Δ/2·d, with its slope d. The corrector adds Δ/2 times the slope
    at the new point. The last interval is an Euler step, since the slope is undefined at s = 0.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), _ = visit(path, steps, spacing, first_level)
    scale, scale_next = alpha + sigma, alpha_next + sigma_next
    left = (sigma_next / scale_next) / (sigma / scale)  # s after the step, as a share of s before it
    back = (1 / left - 1) / 2  # half of the decrease of s, as a share of s after the step
    x, none = sigma_next / sigma, torch.zeros_like(sigma)

    def turns(predictor: Tensor, corrector: Tensor) -> Tensor:
        """Interleave the predictor's and the corrector's coefficients; the last interval has no corrector."""
        return torch.stack([predictor, corrector], 1).flatten()[:-1]

    used, kept_x0, kept_x = turns(none, scale_next), turns((1 - left) / 2, none), turns((1 + left) / 2 / scale, none)
    x0, x = turns(alpha_next - x * alpha, scale_next * back), turns(x, -back)
    memory = Memory(used.float(), kept_x0.float(), kept_x.float())
    return Schedule(turns(t, t.roll(-1)), x0.float(), x.float(), memory=memory)


def visit(path: Path, steps: int, spacing: str, first_level: int | None) -> tuple[Tensor, Path, Path, Tensor]:
    """Return the visited levels (k,), (α, σ) there, (α, σ) at each next level, and the noise variance in between."""
    alpha, sigma = path
    t = timesteps(len(alpha), steps, spacing, first_level)
    alpha_next, sigma_next = torch.cat([alpha[t[1:]], alpha.new_ones(1)]), torch.cat([sigma[t[1:]], sigma.new_zeros(1)])
    fresh = sigma[t] ** 2 - (alpha[t] / alpha_next * sigma_next) ** 2
    return t, (alpha[t], sigma[t]), (alpha_next, sigma_next), fresh


SAMPLERS: dict[str, Callable[..., Schedule]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
    "heun": heun,
    "one_step": one_step,
}


def schedule(
    name: str, path: Path, steps: int | None = None, *, first_level: int | None = None, **options: Any
) -> Schedule:
    """Plan a sampler by name.

    Args:
        name: a key of `SAMPLERS`.
        path: shares of signal and noise (α, σ) at every noise level.
        steps: number of denoising steps. If None, 10, or 1 for "one_step", but no more than there are noise levels.
        first_level: the noisiest level to visit; see `timesteps`.
        **options: other options of the sampler, such as `spacing`.

    Raises:
        ValueError: an unknown sampler, or an option that it does not allow.
    """
    check_choice("sampler", name, SAMPLERS)
    if steps is None:
        steps = min(STEPS_OF.get(name, STEPS), len(path[0]) if first_level is None else first_level + 1)
    return SAMPLERS[name](path, steps, first_level=first_level, **options)


def run(
    plan: Schedule,
    x: Tensor,
    predict_x0: Callable[[Tensor, int], Tensor],
    noise: Callable[[], Tensor],
) -> Tensor:
    """Denoise chunks.

    Args:
        plan: the sampler's plan.
        x: noisy chunks (b h a) at the plan's first noise level.
        predict_x0: returns the predicted clean chunks (b h a) for noisy chunks and the index of the plan's step.
        noise: returns fresh noise (b h a).
    """
    memory = x  # Any finite tensor will do, since the first step never uses it.
    shares = zip(plan.x0.unbind(), plan.x.unbind(), strict=True)  # The views are made once, outside the loop.
    for i, (share_x0, share_x) in enumerate(shares):
        x0, before = predict_x0(x, i), x
        x = share_x0 * x0 + share_x * x
        if plan.noise is not None:
            x = x + plan.noise[i] * noise()
        if plan.memory is not None:
            x = x + plan.memory.use[i] * memory
            memory = plan.memory.x0[i] * x0 + plan.memory.x[i] * before
    return x
