"""Samplers as tables: every step is x, m ← a·x̂_0 + b·x + c·z + d·m, e·x̂_0 + f·x, so one loop serves them all.

Axes: k evaluations, b batch, h horizon, a action. A sampler is a function from the noise path (α, σ) and a number of
steps to a `Schedule`; it sees no network. Nothing in the loop leaves the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

SPACINGS = ("trailing", "leading")
STEPS, STEPS_OF = 10, {"one_step": 1}  # where none are given


class Memory(NamedTuple):
    """What a second-order sampler carries from step to step: how much of it is used, and of what it is made, (k,)."""

    use: Tensor
    x0: Tensor
    x: Tensor


@dataclass(frozen=True)
class Schedule:
    """Noise levels to visit, most noise first, and the coefficients of each step, all (k,).

    `noise` and `memory` are None for samplers that draw no noise after the first, or remember nothing.
    """

    timesteps: Tensor
    x0: Tensor
    x: Tensor
    noise: Tensor | None = None
    memory: Memory | None = None

    @property
    def evaluations(self) -> int:
        """How often the network is asked, k."""
        return len(self.timesteps)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tables that it has."""
        given = (self.timesteps, self.x0, self.x, self.noise, *(self.memory or ()))
        return tuple(table for table in given if table is not None)

    def to(self, device: torch.device) -> Schedule:
        noise = None if self.noise is None else self.noise.to(device)
        memory = None if self.memory is None else Memory(*(table.to(device) for table in self.memory))
        return Schedule(self.timesteps.to(device), self.x0.to(device), self.x.to(device), noise, memory)


def timesteps(train_steps: int, steps: int, spacing: str = "trailing", start: int | None = None) -> Tensor:
    """Visited noise levels (steps,), the same as in diffusers.

    `trailing` starts at pure noise, which one or two steps need; `leading` ends at level 0 and is what the paper's
    diffusers configuration uses. Each step leads to the next visited level; diffusers takes `train_steps // steps`
    levels down, which is another level where that division has a remainder. `start` is the noisiest level there is, for
    a chunk that is already known in part: all steps are then spent below it.
    """
    if start is not None and not (isinstance(start, Integral) and 0 <= start < train_steps):
        raise ValueError(f"start must be a noise level, an integer between 0 and {train_steps - 1}, got {start}")
    levels = train_steps if start is None else start + 1
    if not isinstance(steps, Integral) or not 1 <= steps <= levels:
        below = "the head was trained with" if start is None else f"noise levels up to start={start}"
        raise ValueError(f"steps must be an integer between 1 and the {levels} {below}, got {steps}")
    if spacing == "leading":
        return (torch.arange(steps) * (levels // steps)).flip(0)
    if spacing == "trailing":
        return torch.arange(steps, 0, -1, dtype=torch.float64).mul(levels / steps).round().long() - 1
    raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")


@dataclass(frozen=True)
class Sampling:
    """How a chunk is denoised; see `Acts.sample`. `schedule` checks it."""

    sampler: str = "ddim"
    steps: int | None = None
    spacing: str = "trailing"

    @property
    def evaluations(self) -> int:
        """The most evaluations of the network that a chunk takes."""
        steps = max(1, STEPS_OF.get(self.sampler, STEPS) if self.steps is None else self.steps)
        return 2 * steps - 1 if self.sampler == "heun" else steps


Path = tuple[Tensor, Tensor]  # shares of signal and noise (α, σ), each (T,), from almost clean to noise


def ddim(path: Path, steps: int, spacing: str = "trailing", start: int | None = None, eta: float = 0.0) -> Schedule:
    """DDIM (Song et al. 2021, eq. 12).

    ε is derived from the clipped x̂_0, so that x_t stays on its noise level.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), fresh = visit(path, steps, spacing, start)
    noise = eta * fresh.sqrt() * sigma_next / sigma
    x = (sigma_next**2 - noise**2).clamp(min=0).sqrt() / sigma
    return Schedule(t, (alpha_next - x * alpha).float(), x.float(), noise.float() if eta > 0 else None)


def ddpm(path: Path, steps: int, spacing: str = "trailing", start: int | None = None) -> Schedule:
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7, the smaller variance)."""
    t, (alpha, sigma), (alpha_next, sigma_next), fresh = visit(path, steps, spacing, start)
    x = alpha / alpha_next * (sigma_next / sigma) ** 2
    noise = fresh.sqrt() * sigma_next / sigma
    return Schedule(t, (alpha_next * fresh / sigma**2).float(), x.float(), noise.float())


def euler(path: Path, steps: int, spacing: str = "trailing", start: int | None = None) -> Schedule:
    """Euler's rule for the probability-flow ODE: DDIM's, by the name that flow matching knows.

    Both hold x̂_0 and ε for a step and change their shares. That is so along x, x/α and x/(α + σ) alike.
    """
    return ddim(path, steps, spacing, start)


def one_step(path: Path, steps: int = 1, spacing: str = "trailing", start: int | None = None) -> Schedule:
    """x̂_0 as seen from pure noise, for heads trained where noise is high."""
    if steps != 1 or spacing != "trailing":
        raise ValueError(
            f"one_step is one evaluation at the noisiest level, got steps={steps} and spacing={spacing!r}: leave both "
            "out, or choose another sampler, such as 'euler'"
        )
    return ddim(path, steps, spacing, start)


def dpmpp_2m(path: Path, steps: int, spacing: str = "trailing", start: int | None = None) -> Schedule:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the memory is the x̂_0 before, which x̂_0 is extrapolated from.

    Of first order, as DDIM, at the first step, which has no x̂_0 before it, and at the last, which is endless in λ.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), _ = visit(path, steps, spacing, start)
    width = (alpha_next / sigma_next).log() - (alpha / sigma).log()  # in λ = log α/σ
    share = torch.zeros_like(width)
    share[1:-1] = width[1:-1] / width[:-2] / 2  # none after a step from pure noise, for that is endless too
    x = sigma_next / sigma
    x0 = alpha_next - x * alpha
    memory = Memory((-share * x0).float(), torch.ones_like(x).float(), torch.zeros_like(x).float())
    return Schedule(t, ((1 + share) * x0).float(), x.float(), memory=memory)


def heun(path: Path, steps: int, spacing: str = "trailing", start: int | None = None) -> Schedule:
    """Heun's rule (Karras et al. 2022, algorithm 1): 2·steps - 1 evaluations, since each inner level is seen twice.

    In straight coordinates x̄ = x/(α + σ), s = σ/(α + σ), the ODE is dx̄/ds = (x̄ - x̂_0)/s on every path. In Karras'
    own, x/α and σ/α, the cosine path begins at σ/α = 2,000 and is at 64 one level later: a mean of slopes there says
    nothing of what lies between. A predictor goes Euler's way and remembers x̄ + Δ/2·d with its slope d; the corrector
    adds Δ/2 of the slope that it finds there. The last interval is Euler's: at s = 0 there is no slope.
    """
    t, (alpha, sigma), (alpha_next, sigma_next), _ = visit(path, steps, spacing, start)
    scale, scale_next = alpha + sigma, alpha_next + sigma_next
    left = (sigma_next / scale_next) / (sigma / scale)  # share of s that a step leaves
    back = (1 / left - 1) / 2  # half of what is left out, over the s that is reached
    x, none = sigma_next / sigma, torch.zeros_like(sigma)

    def turns(predictor: Tensor, corrector: Tensor) -> Tensor:
        """Predictor and corrector take turns; the last interval has no corrector."""
        return torch.stack([predictor, corrector], 1).flatten()[:-1]

    used, kept_x0, kept_x = turns(none, scale_next), turns((1 - left) / 2, none), turns((1 + left) / 2 / scale, none)
    x0, x = turns(alpha_next - x * alpha, scale_next * back), turns(x, -back)
    memory = Memory(used.float(), kept_x0.float(), kept_x.float())
    return Schedule(turns(t, t.roll(-1)), x0.float(), x.float(), memory=memory)


def visit(path: Path, steps: int, spacing: str, start: int | None) -> tuple[Tensor, Path, Path, Tensor]:
    """Visited levels (k,), (α, σ) there, (α, σ) at the level each leads to, and the noise variance between them."""
    alpha, sigma = path
    t = timesteps(len(alpha), steps, spacing, start)
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


def schedule(name: str, path: Path, steps: int | None = None, *, start: int | None = None, **options) -> Schedule:
    """The `Schedule` of a sampler by name; without `steps`, 10 or 1 for one_step, and no more than there are levels."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}")
    if steps is None:
        steps = min(STEPS_OF.get(name, STEPS), len(path[0]) if start is None else start + 1)
    return SAMPLERS[name](path, steps, start=start, **options)


def run(
    plan: Schedule,
    x: Tensor,
    predict_x0: Callable[[Tensor, int], Tensor],
    noise: Callable[[], Tensor],
) -> Tensor:
    """Denoise x (b h a), which is as noisy as the plan's first level.

    `predict_x0(x, i)` is the clean chunk seen from step i of the plan; `noise()` is fresh noise (b h a).
    """
    memory = x  # anything finite: no first step uses it
    shares = zip(plan.x0.unbind(), plan.x.unbind(), strict=True)  # views, made once
    for i, (share_x0, share_x) in enumerate(shares):
        x0, before = predict_x0(x, i), x
        x = share_x0 * x0 + share_x * x
        if plan.noise is not None:
            x = x + plan.noise[i] * noise()
        if plan.memory is not None:
            x = x + plan.memory.use[i] * memory
            memory = plan.memory.x0[i] * x0 + plan.memory.x[i] * before
    return x
