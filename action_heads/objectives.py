"""What the network predicts, and how noise is mixed in (DDPM, Ho et al. 2020; cosine levels, Nichol & Dhariwal 2021).

Axes: b batch, h horizon, a action. Time runs from clean to noise: step 0 is almost clean, step T - 1 almost pure noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from action_heads.precision import KeepFloat32

PREDICTIONS = ("epsilon", "x0")


@dataclass(frozen=True)
class ObjectiveConfig:
    """The paper's noise path: 100 steps of `squaredcos_cap_v2`; `clip` bounds predicted actions while sampling."""

    prediction: str = "x0"
    train_steps: int = 100
    clip: float = 1.0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {self.prediction!r}; choose one of {', '.join(PREDICTIONS)}")
        if self.train_steps < 1:
            raise ValueError(f"train_steps must be at least 1, got {self.train_steps}")
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")


def squaredcos_cap_v2(steps: int) -> Tensor:
    """Cumulative signal power ᾱ (steps,) in float64, the product of 1 - β with β capped at 0.999."""

    def power(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - power((i + 1) / steps) / power(i / steps), 0.999) for i in range(steps)]
    return torch.tensor([1 - beta for beta in betas], dtype=torch.float64).cumprod(0)


class Objective(KeepFloat32):
    """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε, and the conversions between x_0, ε and the network's output."""

    alpha: Tensor
    sigma: Tensor

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        power = squaredcos_cap_v2(config.train_steps)
        self.register_buffer("alpha", power.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - power).sqrt().float(), persistent=False)

    def random_steps(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Uniform noise levels, long."""
        device = self.alpha.device if generator is None else generator.device
        return torch.randint(self.config.train_steps, shape, generator=generator, device=device).to(self.alpha.device)

    def random_noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal, drawn where the generator is: a CPU generator gives the same numbers on every machine."""
        device = self.alpha.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device).to(self.alpha.device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b h a) from x0 and noise (b h a) at steps t (b 1) or (b h)."""
        return self.alpha[t, None] * x0 + self.sigma[t, None] * noise

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """What the network should have said (b h a)."""
        return noise if self.config.prediction == "epsilon" else x0

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean chunk that the network's output implies, clipped (b h a)."""
        if self.config.prediction == "epsilon":
            output = (x_t - self.sigma[t, None] * output) / self.alpha[t, None]
        return output.clamp(-self.config.clip, self.config.clip)
