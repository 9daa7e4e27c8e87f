"""The base class of backbones, and the embedding of noise levels.

Axes: b batch, h horizon, a action, n noise levels, w width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from action_heads.adapters.base import Modulation, Site


class Backbone(nn.Module):
    """A network from a noisy chunk x_t (b h a) and the modulation of its sites to a prediction (b h a).

    It depends on conditions and noise levels only through the modulation. `step` computes the features of noise levels.
    """

    mixes_time: ClassVar[bool]  # whether the output at one time step depends on the input at others
    per_position: ClassVar[bool] = True  # whether the time steps of a chunk can be modulated differently
    mechanisms: ClassVar[tuple[str, ...]]  # names of the mechanisms that it supports

    sites: list[Site]
    step: StepEmbedding
    embed: nn.Module
    out: nn.Module

    @classmethod
    def check(cls, *, width: int, depth: int, horizon: int) -> None:
        """Raise a ValueError if the backbone cannot have this shape. The base class accepts any."""

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """The layers whose size depends on the action. A reshaped head gets new ones, which train with its adapter."""
        return self.embed, self.out

    @property
    def over_time(self) -> list[nn.Linear]:
        """The linear maps over time (h h), which `reshape` resamples for another horizon."""
        return []

    def forward(self, x: Tensor, modulation: Sequence[Modulation]) -> Tensor:
        """Predict the objective's target (b h a) from a noisy chunk (b h a) and the modulation of each site."""
        raise NotImplementedError


class StepEmbedding(nn.Module):
    """The map from noise levels t (n,) to features f(t) (n w): sinusoids, then Linear, Mish, Linear, Mish."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.width, self.waves = width, width // 2
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.Mish(), nn.Linear(expansion * width, width))

    def forward(self, t: Tensor) -> Tensor:
        # The frequencies are no buffer, since a cast to bfloat16 would move the last angle by 0.2 rad.
        number = torch.arange(self.waves, device=t.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10000) / (self.waves - 1) * number)
        angles = t[:, None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        # In the paper this last Mish precedes every FiLM generator.
        return nn.functional.mish(self.mlp(waves.to(next(self.mlp.parameters()).dtype)))
