"""Prefix tokens: conditioning through the backbone's own self-attention (Decoupled Action Expert, section IV-E).

Not the committed prefix of a chunk, which is `action_heads.diffusion.continuing`.

Axes: b batch, h horizon, n tokens, w width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from action_heads.adapters.base import Modulation, Site
from action_heads.adapters.tokens import TokenAdapter


class PrefixModulation(Modulation):
    def __init__(self, values: Tensor):
        self.tokens = values

    def prepend(self, x: Tensor) -> Tensor:
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1)


class PrefixTokens(TokenAdapter):
    """x ← [tokens, x] before the first layer; after the last, the chunk alone is read.

    The tokens are all that trains: how the chunk attends to them is frozen. In the paper this does not survive
    freezing (MimicGen 56.3 -> 19.5 %).
    """

    name = "prefix"
    modulation = PrefixModulation

    @classmethod
    def modulations(
        cls, values: Tensor, sites: Sequence[Site], layers: nn.ModuleList | None = None
    ) -> list[Modulation]:
        return len(sites) * [cls.modulation(cls.as_tokens(values))]
