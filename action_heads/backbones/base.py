"""What every backbone shares: the step embedding, and what it declares of itself.

Axes: b batch, h horizon, a action, n steps, w width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from action_heads.adapters.base import Modulation, Site


class Backbone(nn.Module):
    """A denoiser (x_t (b h a), modulation of its sites) -> (b h a). It knows no condition, schedule or robot.

    `step` makes the features of the diffusion step.
    """

    mixes_time: ClassVar[bool]  # whether a chunk is denoised as a whole
    per_position: ClassVar[bool] = True  # whether each step of a chunk may be modulated differently
    mechanisms: ClassVar[tuple[str, ...]]  # adapters it can take

    sites: list[Site]
    step: StepEmbedding
    embed: nn.Module
    out: nn.Module

    @classmethod
    def check(cls, *, width: int, depth: int, horizon: int) -> None:
        """Refuse a shape that this backbone can't have; any will do here."""

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """All that knows the width of an action. A reshaped head has new ones, which train with its adapter."""
        return self.embed, self.out

    @property
    def over_time(self) -> list[nn.Linear]:
        """Maps over the steps of a chunk (h h), which are resampled for another horizon."""
        return []

    def forward(self, x: Tensor, modulation: Sequence[Modulation]) -> Tensor:
        """Noisy chunk (b h a) and one modulation a site -> the objective's prediction (b h a)."""
        raise NotImplementedError


class StepEmbedding(nn.Module):
    """Diffusion step (n,) to features f(t) (n, w): sinusoids, then Linear, Mish, Linear, Mish."""

    def __init__(self, width: int, expansion: int = 4):
        super().__init__()
        self.width, self.waves = width, width // 2
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.Mish(), nn.Linear(expansion * width, width))

    def forward(self, t: Tensor) -> Tensor:
        # No buffer: cast to bfloat16 with the head, frequencies would be 0.2 rad off at the last step.
        frequencies = torch.exp(-math.log(10000) / (self.waves - 1) * torch.arange(self.waves, device=t.device))
        angles = t[:, None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        # The last Mish is the paper's activation in front of every FiLM generator.
        return nn.functional.mish(self.mlp(waves.to(next(self.mlp.parameters()).dtype)))
