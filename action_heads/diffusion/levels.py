"""Which noise levels training visits: a name -> random levels, long, from 0 (almost clean) to T - 1 (almost noise).

Papers give a density over u in [0, 1]. Where their time runs from noise to data it is turned round here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from action_heads._util.flags import about, check_least
from action_heads.diffusion import draws

Shape = tuple[int, ...]


def uniform(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Each of T levels as often as any other."""
    return draws.integers(steps, shape, generator, device)


def logit_normal(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Mostly the middle, where predicting is hardest (Esser et al. 2024, section 3.1, with m = 0 and s = 1)."""
    return level(draws.normal(shape, generator, device).sigmoid(), steps)


def beta(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """More often the noisier (π0, Black et al. 2024, appendix B).

    There τ runs from noise to data and (s - τ)/s ~ Beta(1.5, 1) with s = 0.999; the noise is 1 - τ. The distribution
    function of Beta(1.5, 1) is u^1.5.
    """
    noise = 1 - 0.999 * (1 - draws.uniform(shape, generator, device) ** (1 / 1.5))
    return level(noise, steps)


def last(steps: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Only the noisiest, which is all that the sampler "one_step" visits."""
    return torch.full(shape, steps - 1, device=device)


def level(u: Tensor, steps: int) -> Tensor:
    """The level whose share of [0, 1] u lies in."""
    return (u * steps).long().clamp(max=steps - 1)


LEVELS: dict[str, Callable[[int, Shape, torch.Generator | None, torch.device], Tensor]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "beta": beta,
    "last": last,
}


def check_levels(name: str) -> None:
    """Raise for a name that is none of `LEVELS`."""
    if name not in LEVELS:
        raise ValueError(f"unknown levels {name!r}; choose one of {', '.join(LEVELS)}")


@dataclass(frozen=True)
class NoiseConfig:
    """How training noises a chunk.

    Attributes:
        levels: of noise: uniform, logit_normal, beta or last.
        noise_samples: how often each chunk is noised.
        prefixes: also train to continue committed steps, for real-time chunking.
    """

    levels: str = "uniform"
    noise_samples: int = 1
    prefixes: bool = False

    def __post_init__(self):
        with about("levels"):
            check_levels(self.levels)
        check_least(self, 1, "noise_samples")
