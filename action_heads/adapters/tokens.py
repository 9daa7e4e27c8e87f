"""What the token mechanisms share: modulation values that are tokens, for the whole network.

Axes: b batch, n tokens, w width, P modulation values of all sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from einops import rearrange
from torch import Tensor

from action_heads.adapters.base import Adapter, Site


class TokenAdapter(Adapter):
    """The P = n·w values are n tokens, which all sites share.

    The diffusion step's tokens, the code's and the condition's are summed, as the values of every mechanism are, so
    that tokens too are planned before the denoising loop and a fresh adapter changes nothing. A chunk has one set of
    them: its steps can't be told different noise levels.
    """

    tokens: ClassVar[int] = 8
    per_position = False

    @classmethod
    def sizes(cls, sites: Sequence[Site]) -> list[int]:
        return [cls.tokens * sites[0].width]

    @classmethod
    def as_tokens(cls, values: Tensor) -> Tensor:
        """Values (b, 1, P) -> tokens (b n w)."""
        return rearrange(values, "b 1 (n w) -> b n w", n=cls.tokens)
