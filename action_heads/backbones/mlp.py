"""The backbone `mlp`: DP-MLP (Decoupled Action Expert, arXiv 2511.12101, section III-B, eq. 4).

Axes: b batch, h horizon, a action, w width, u hidden units of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from action_heads._util.mixing import MIXES_TIME
from action_heads.adapters.base import Modulation, Site
from action_heads.backbones.base import Backbone, StepEmbedding


class PerPositionLinear(nn.Module):
    """One linear map for each time step, (b h a) -> (b h w). Nothing else in DP-MLP distinguishes the time steps."""

    def __init__(self, horizon: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # the initialisation of nn.Linear
        self.weight = nn.Parameter(torch.empty(horizon, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(horizon, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        by_step = rearrange(x, "b h a -> h b a") @ self.weight  # Plain matrix products can be exported.
        return rearrange(by_step, "h b w -> b h w") + self.bias


class MLPBlock(nn.Module):
    """The block x ← norm(x + W_2 GELU(W_1 x)), modulated at the branch's input, hidden units and output."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        y = self.up(m.enter(x))
        y = self.down(m.hidden(self.act(y)))
        return m.normalize(x + m.leave(y), self.norm)


class MLPBackbone(Backbone):
    """The paper's DP-MLP, which denoises every time step of a chunk independently, given the modulation.

    The Jacobian of the output at one time step with respect to the input at another is exactly zero. Therefore a chunk
    cannot commit to one of two ways to do a task. This is faithful to the paper; `mixer` mixes time steps.
    """

    mixes_time = MIXES_TIME["mlp"]
    mechanisms = ("film", "additive", "adaln", "adaln_zero", "adarmsnorm")

    def __init__(self, *, action_dim: int, horizon: int, width: int, depth: int, expansion: int):
        super().__init__()
        self.width, self.hidden = width, expansion * width
        self.sites = depth * [Site(width, self.hidden)]
        self.step = StepEmbedding(width, expansion)
        self.embed = PerPositionLinear(horizon, action_dim, width)
        self.blocks = nn.ModuleList(self.block(horizon) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, action_dim)

    def block(self, horizon: int) -> nn.Module:
        """Return a new block."""
        return MLPBlock(self.width, self.hidden)

    def forward(self, x: Tensor, modulation: Sequence[Modulation]) -> Tensor:
        x = self.embed(x)
        for block, m in zip(self.blocks, modulation, strict=True):
            x = block(x, m)
        return self.out(self.norm(x))
