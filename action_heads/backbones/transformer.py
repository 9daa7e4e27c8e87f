"""The backbone `transformer`, in the shape of the paper's DP-T (Decoupled Action Expert, arXiv 2511.12101, IV-E).

Axes: b batch, h horizon, n tokens before the chunk, a action, w width, u hidden units of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from action_heads._util.attention import attend, heads_of
from action_heads._util.mixing import MIXES_TIME
from action_heads.adapters.base import Modulation, Site
from action_heads.backbones.base import Backbone, StepEmbedding


class Embedding(nn.Module):
    """One linear map for all time steps, and a learned position for each: (b h a) -> (b h w)."""

    def __init__(self, horizon: int, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.positions = nn.Parameter(0.02 * torch.randn(horizon, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.positions


class SelfAttention(nn.Module):
    """The branch x ← x + W_o attention(W_q y, W_k y, W_v y), y = norm(x), over the whole sequence (not causal)."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = heads_of(width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        q, k, v = self.qkv(m.enter(m.normalize(x, self.norm))).chunk(3, dim=-1)
        y = self.out(m.hidden(attend(q, k, v, self.heads)))
        return m.attend(x + m.leave(y))


class FeedForward(nn.Module):
    """The branch x ← x + W_2 GELU(W_1 norm(x))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, m: Modulation) -> Tensor:
        y = self.act(self.up(m.enter(m.normalize(x, self.norm))))
        return x + m.leave(self.down(m.hidden(y)))


class TransformerBackbone(Backbone):
    """Pre-norm transformer layers of two branches, each of which is a site.

    The paper compares its seven mechanisms on this backbone. It has 6,853,642 parameters at width 256 and depth 8,
    with the step embedding.
    """

    mixes_time = MIXES_TIME["transformer"]
    mechanisms = ("film", "additive", "adaln", "adaln_zero", "adarmsnorm", "cross_attention", "prefix")

    def __init__(self, *, action_dim: int, horizon: int, width: int, depth: int, expansion: int):
        super().__init__()
        hidden = expansion * width
        self.sites = depth * [Site(width, width, attends=True), Site(width, hidden)]
        self.step = StepEmbedding(width, expansion)
        self.embed = Embedding(horizon, action_dim, width)
        self.branches = nn.ModuleList(
            branch for _ in range(depth) for branch in (SelfAttention(width), FeedForward(width, hidden))
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, action_dim)

    def forward(self, x: Tensor, modulation: Sequence[Modulation]) -> Tensor:
        h = x.shape[1]
        x = modulation[0].prepend(self.embed(x))
        for branch, m in zip(self.branches, modulation, strict=True):
            x = branch(x, m)
        return self.out(self.norm(x[:, -h:]))
