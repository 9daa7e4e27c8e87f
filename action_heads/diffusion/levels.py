"""Distributions of the noise levels that training visits.

Each function draws int64 levels from 0 (almost clean) to T - 1 (almost pure noise). Papers give a density over [0, 1];
a paper whose time runs from noise to data is reversed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from action_heads._util.flags import about, check_least
from action_heads._util.limits import check_choice
from action_heads.diffusion import draws

Shape = tuple[int, ...]


def uniform(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw each of the T levels with equal probability."""
    return draws.integers(steps, shape, generator, device)


def logit_normal(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Prefer the middle levels, where prediction is hardest (Esser et al. 2024, section 3.1, m = 0 and s = 1)."""
    return level(draws.normal(shape, generator, device).sigmoid(), steps)


def beta(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Prefer the noisier levels (π0, Black et al. 2024, appendix B).

    In the paper τ runs from noise to data and (s - τ)/s ~ Beta(1.5, 1) with s = 0.999, so the noise is 1 - τ. The
    cumulative distribution function of Beta(1.5, 1) is u^1.5, which is inverted here.
    """
    noise = 1 - 0.999 * (1 - draws.uniform(shape, generator, device) ** (1 / 1.5))
    return level(noise, steps)


def last(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return the noisiest level everywhere. The sampler "one_step" visits no other."""
    return torch.full(shape, steps - 1, device=device)


def level(u: Tensor, steps: int) -> Tensor:
    """Return the level for u in [0, 1], which is divided into `steps` equal parts."""
    return (u * steps).long().clamp(max=steps - 1)


LEVELS: dict[str, Callable[[int, Shape, torch.Generator | None, torch.device], Tensor]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "beta": beta,
    "last": last,
}


def check_levels(name: str) -> None:
    """Raise a ValueError if a name is not a key of `LEVELS`."""
    check_choice("levels", name, LEVELS)


@dataclass(frozen=True)
class NoiseConfig:
    """Settings of the noise that training adds to chunks.

    Attributes:
        levels: distribution of the noise levels: uniform, logit_normal, beta or last.
        noise_samples: number of noised copies of each chunk in a batch.
        prefixes: also train to continue committed time steps, for real-time chunking.
    """

    levels: str = "uniform"
    noise_samples: int = 1
    prefixes: bool = False

    def __post_init__(self):
        with about("levels"):
            check_levels(self.levels)
        check_least(self, 1, "noise_samples")
