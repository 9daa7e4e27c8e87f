"""Noise schedules: the shares of signal and noise at every noise level.

The cosine schedule is from Nichol & Dhariwal 2021, the straight path of flow matching from Lipman et al. 2023.

Axes: T noise levels. Level 0 is almost clean, level T - 1 almost pure noise.
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
    """Return the cumulative signal power ᾱ (steps,), float64: the product of 1 - β, with β at most 0.999.

    The name is the one in diffusers.
    """

    def power(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - power((i + 1) / steps) / power(i / steps), 0.999) for i in range(steps)]
    return torch.tensor([1 - beta for beta in betas], dtype=torch.float64, device="cpu").cumprod(0)


@cache
def noise_path(config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Return the shares of signal α and noise σ at every noise level, both (T,) float64 on the CPU, from clean on."""
    if config.prediction == "flow":
        sigma = torch.arange(1, config.train_steps + 1, dtype=torch.float64, device="cpu") / config.train_steps
        return 1 - sigma, sigma
    power = squaredcos_cap_v2(config.train_steps)
    return power.sqrt(), (1 - power).sqrt()
