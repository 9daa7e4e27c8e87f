"""Noise schedules: the share of signal and of noise at every level.

Cosine levels, Nichol & Dhariwal 2021; flow, Lipman et al. 2023.

Axes: T levels. Time runs from clean to noise: level 0 is almost clean, level T - 1 almost pure noise.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from action_heads.diffusion.objectives import ObjectiveConfig


def squaredcos_cap_v2(steps: int) -> Tensor:
    """Cumulative signal power ᾱ (steps,) in float64, the product of 1 - β with β capped at 0.999."""

    def power(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - power((i + 1) / steps) / power(i / steps), 0.999) for i in range(steps)]
    return torch.tensor([1 - beta for beta in betas], dtype=torch.float64).cumprod(0)


@cache
def noise_path(config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Share of signal α and of noise σ at every level (T,), float64, from almost clean to noise."""
    if config.prediction == "flow":
        sigma = torch.arange(1, config.train_steps + 1, dtype=torch.float64) / config.train_steps
        return 1 - sigma, sigma
    power = squaredcos_cap_v2(config.train_steps)
    return power.sqrt(), (1 - power).sqrt()
