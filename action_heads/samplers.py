"""Samplers as tables: every step is x ← a·x̂_0 + b·x + c·z, so one loop serves them all.

Axes: k sampling steps, b batch, h horizon, a action. A sampler is a function from the cumulative signal power ᾱ and a
number of steps to a `Schedule`; it sees no network. Nothing in the loop leaves the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SPACINGS = ("trailing", "leading")


@dataclass(frozen=True)
class Schedule:
    """Noise levels to visit, most noise first, and the three coefficients of each step, all (k,)."""

    timesteps: Tensor
    x0: Tensor
    x: Tensor
    noise: Tensor
    stochastic: bool

    def to(self, device: torch.device) -> Schedule:
        tables = (table.to(device) for table in (self.timesteps, self.x0, self.x, self.noise))
        return Schedule(*tables, stochastic=self.stochastic)


def timesteps(train_steps: int, steps: int, spacing: str = "trailing") -> Tensor:
    """Visited noise levels (k,), the same as in diffusers.

    `trailing` starts at pure noise, which one or two steps need; `leading` ends at level 0 and is what the paper's
    diffusers configuration uses. Each step leads to the next visited level; diffusers takes `train_steps // steps`
    levels down, which is another level where that division has a remainder.
    """
    if not isinstance(steps, int) or not 1 <= steps <= train_steps:
        raise ValueError(
            f"steps must be an integer between 1 and the {train_steps} the head was trained with, got {steps}"
        )
    if spacing == "leading":
        return (torch.arange(steps) * (train_steps // steps)).flip(0)
    if spacing == "trailing":
        return torch.arange(steps, 0, -1, dtype=torch.float64).mul(train_steps / steps).round().long() - 1
    raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")


def ddim(power: Tensor, steps: int, spacing: str = "trailing", eta: float = 0.0) -> Schedule:
    """DDIM (Song et al. 2021, eq. 12); ε is derived from the clipped x̂_0, so that x_t stays on its noise level."""
    t = timesteps(len(power), steps, spacing)
    now, after = power[t], torch.cat([power[t[1:]], power.new_ones(1)])
    variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
    direction = ((1 - after - variance).clamp(min=0) / (1 - now)).sqrt()
    x0, noise = after.sqrt() - direction * now.sqrt(), variance.sqrt()
    return Schedule(t, x0.float(), direction.float(), noise.float(), stochastic=eta > 0)


def ddpm(power: Tensor, steps: int, spacing: str = "trailing") -> Schedule:
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7, the smaller variance)."""
    t = timesteps(len(power), steps, spacing)
    now, after = power[t], torch.cat([power[t[1:]], power.new_ones(1)])
    beta = 1 - now / after
    x0, x = after.sqrt() * beta / (1 - now), (1 - beta).sqrt() * (1 - after) / (1 - now)
    noise = ((1 - after) / (1 - now) * beta).sqrt()
    return Schedule(t, x0.float(), x.float(), noise.float(), stochastic=True)


SAMPLERS: dict[str, Callable[..., Schedule]] = {"ddim": ddim, "ddpm": ddpm}


def schedule(name: str, power: Tensor, steps: int, **options) -> Schedule:
    """The `Schedule` of a sampler by name."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name](power, steps, **options)


def run(
    plan: Schedule,
    x: Tensor,
    predict_x0: Callable[[Tensor, int], Tensor],
    noise: Callable[[], Tensor],
) -> Tensor:
    """Denoise x (b h a) from pure noise.

    `predict_x0(x, i)` is the clean chunk seen from step i of the plan; `noise()` is fresh noise (b h a).
    """
    for i in range(len(plan.timesteps)):
        x = plan.x0[i] * predict_x0(x, i) + plan.x[i] * x
        if plan.stochastic:
            x = x + plan.noise[i] * noise()
    return x
