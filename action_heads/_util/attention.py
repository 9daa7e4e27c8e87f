"""Multi-head attention (Vaswani et al. 2017, section 3.2.2) between its projections, for a backbone and an adapter.

Axes: b batch, s steps that ask, n tokens that answer, w width, i heads, d width of a head.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

HEAD = 64  # width of one head, as in the paper's DP-T: 4 heads at width 256


def heads_of(width: int) -> int:
    """How many heads share a width: one for each 64, and at least one."""
    heads = max(1, width // HEAD)
    if width % heads:
        raise ValueError(f"a width of {width} can't be shared by {heads} heads: choose a multiple of {HEAD}")
    return heads


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Queries (b s w) over keys and values (b n w) -> (b s w), before the output projection."""
    q, k, v = (rearrange(each, "b s (i d) -> b i s d", i=heads) for each in (q, k, v))
    return rearrange(nn.functional.scaled_dot_product_attention(q, k, v), "b i s d -> b s (i d)")
