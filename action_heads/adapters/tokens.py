"""The base class of the mechanisms whose modulation values are tokens.

Axes: b batch, n tokens, w width, P modulation values of all sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from einops import rearrange
from torch import Tensor

from action_heads.adapters.base import Adapter, Site


class TokenAdapter(Adapter):
    """An adapter whose P = n·w modulation values are n tokens of width w, shared by all sites.

    The tokens of the noise level, of the code and of the condition are summed, as in every mechanism. So they are
    computed before the denoising loop, and a fresh adapter changes nothing. A chunk has one set of tokens, so its time
    steps cannot have different noise levels.
    """

    tokens: ClassVar[int] = 8
    per_position = False

    @classmethod
    def sizes(cls, sites: Sequence[Site]) -> list[int]:
        return [cls.tokens * sites[0].width]

    @classmethod
    def as_tokens(cls, values: Tensor) -> Tensor:
        """Reshape values (b, 1, P) to tokens (b n w)."""
        return rearrange(values, "b 1 (n w) -> b n w", n=cls.tokens)
