"""The backbone `mixer`: DP-MLP with one linear map over time in each block, so that time steps are denoised jointly.

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from action_heads._util.mixing import MIXES_TIME
from action_heads.adapters.base import Modulation
from action_heads.backbones.mlp import MLPBackbone, MLPBlock


class MixerBlock(MLPBlock):
    """An `MLPBlock` whose branch first mixes the time steps of the chunk, by the same map in every channel."""

    def __init__(self, width: int, hidden: int, horizon: int):
        super().__init__(width, hidden)
        self.mix = nn.Linear(horizon, horizon)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        y = m.enter(x)
        mixed = self.mix(rearrange(y, "b h w -> b w h"))
        y = self.up(y + rearrange(mixed, "b w h -> b h w"))
        y = self.down(m.hidden(self.act(y)))
        return m.normalize(x + m.leave(y), self.norm)


class MixerBackbone(MLPBackbone):
    """The backbone `mlp` with time mixing, which adds 272 parameters to each block at horizon 16."""

    mixes_time = MIXES_TIME["mixer"]

    @property
    def over_time(self) -> list[nn.Linear]:
        return [block.mix for block in self.blocks if isinstance(block, MixerBlock)]

    def block(self, horizon: int) -> nn.Module:
        """Return a new block."""
        return MixerBlock(self.width, self.hidden, horizon)
