"""The backbone `unet`: DP-C of arXiv 2511.12101, the U-Net over time of Diffusion Policy (Chi et al. 2023).

Axes: b batch, h horizon (halved at every level), a action, i inputs of a block, u channels of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mish

from action_heads._util.mixing import MIXES_TIME
from action_heads.adapters.base import Modulation, Site
from action_heads.backbones.base import Backbone, StepEmbedding

KERNEL, GROUPS = 5, 8
STEP = 256  # features of a noise level for any width, as in the paper's runs on LIBERO


class Entry(nn.Module):
    """The two maps of a block's input (b i h): to its branch, and to the residual stream around it (both b u h)."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.branch = nn.Conv1d(inputs, channels, KERNEL, padding=KERNEL // 2)
        self.stream = nn.Identity() if inputs == channels else nn.Conv1d(inputs, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.branch(x), self.stream(x)


class ConvBlock(nn.Module):
    """The block W_0 x + σ(norm(W_2 * m(σ(norm(W_1 * x))))): σ is Mish, * convolution over time, m modulation."""

    def __init__(self, enter: nn.Module, channels: int):
        super().__init__()
        self.enter = enter
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)
        self.norm_after = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], m: Modulation) -> Tensor:
        y, stream = self.enter(x)
        y = m.hidden(mish(self.norm(y)).mT).mT  # Modulation acts on (b h u).
        return stream + mish(self.norm_after(self.conv(y)))


class TwoBlocks(nn.Module):
    """The two blocks at each resolution, on both sides and at the bottom."""

    def __init__(self, enter: nn.Module, channels: int):
        super().__init__()
        self.first = ConvBlock(enter, channels)
        self.second = ConvBlock(Entry(channels, channels), channels)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], first: Modulation, second: Modulation) -> Tensor:
        return self.second(self.first(x, first), second)


class UNetBackbone(Backbone):
    """The paper's DP-C: `depth` levels of resolution with `width` channels at the first and twice as many at each next.

    It has 244M parameters at width 512 and depth 3. A block has as many hidden units as its level has channels, so
    `expansion` only sets the width of the step embedding. As in the original, the first level has no skip connection:
    the last one joins at half the horizon.
    """

    mixes_time = MIXES_TIME["unet"]
    per_position = False  # Each next level halves the number of time steps.
    mechanisms = ("film",)

    def __init__(self, *, action_dim: int, horizon: int, width: int, depth: int, expansion: int):
        super().__init__()
        self.check(width=width, depth=depth, horizon=horizon)
        channels = [width * 2**level for level in range(depth)]
        up = [(wide, narrow) for narrow, wide in reversed(list(pairwise(channels)))]
        sites = [*channels, channels[-1], *(narrow for _, narrow in up)]
        self.sites = [Site(u, u) for u in sites for _ in range(2)]
        self.step = StepEmbedding(STEP, expansion)
        # Both maps from actions are here and not in the first block, so that only `projections` depend on the action.
        self.embed = Entry(action_dim, width)
        entries = [nn.Identity(), *(Entry(narrow, wide) for narrow, wide in pairwise(channels))]
        self.down = nn.ModuleList(TwoBlocks(enter, u) for enter, u in zip(entries, channels, strict=True))
        self.shrink = nn.ModuleList(nn.Conv1d(u, u, 3, stride=2, padding=1) for u in channels[:-1])
        self.middle = TwoBlocks(Entry(channels[-1], channels[-1]), channels[-1])
        self.up = nn.ModuleList(TwoBlocks(Entry(2 * wide, narrow), narrow) for wide, narrow in up)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(u, u, 4, stride=2, padding=1) for _, u in up)
        self.conv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2)
        self.norm = nn.GroupNorm(GROUPS, width)
        self.out = nn.Conv1d(width, action_dim, 1)

    @classmethod
    def check(cls, *, width: int, depth: int, horizon: int) -> None:
        if width % GROUPS:
            raise ValueError(f"the width of a unet must be a multiple of {GROUPS}, its number of groups; got {width}")
        if horizon % (parts := 2 ** (depth - 1)):
            raise ValueError(
                f"a unet of depth {depth} halves the horizon {depth - 1} times, so the horizon must be a multiple of "
                f"{parts}; got {horizon}. Use {max(1, round(horizon / parts)) * parts}, for example."
            )

    def forward(self, x: Tensor, modulation: Sequence[Modulation]) -> Tensor:
        m, skips = iter(modulation), []
        x = self.embed(x.mT)
        for blocks, shrink in zip(self.down, (*self.shrink, nn.Identity()), strict=True):
            skips.append(blocks(x, next(m), next(m)))
            x = shrink(skips[-1])
        x = self.middle(x, next(m), next(m))
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = grow(blocks(torch.cat([x, skips.pop()], dim=1), next(m), next(m)))
        return self.out(mish(self.norm(self.conv(x)))).mT
