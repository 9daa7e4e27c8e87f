"""Prefix tokens, which condition through the backbone's self-attention (Decoupled Action Expert, section IV-E).

The committed prefix of a chunk is something else: see `action_heads.diffusion.continuing`.

Axes: b batch, h horizon, n tokens, w width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from action_heads.adapters.base import Modulation, Site
from action_heads.adapters.tokens import TokenAdapter


class PrefixModulation(Modulation):
    """Tokens before the embedded chunk."""

    def __init__(self, values: Tensor):
        self.tokens = values

    def prepend(self, x: Tensor) -> Tensor:
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1)


class PrefixTokens(TokenAdapter):
    """An adapter by prefix tokens: x ← [tokens, x] before the first layer; the last layer's tokens are dropped.

    Only the tokens train; the self-attention by which the chunk reads them is frozen. In the paper freezing costs this
    mechanism most of its success (MimicGen 56.3 % to 19.5 %). See `Adapter` for the arguments.
    """

    name = "prefix"
    modulation = PrefixModulation

    @classmethod
    def modulations(
        cls, values: Tensor, sites: Sequence[Site], layers: nn.ModuleList | None = None
    ) -> list[Modulation]:
        return len(sites) * [cls.modulation(cls.as_tokens(values))]
