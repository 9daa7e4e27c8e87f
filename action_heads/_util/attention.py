"""Multi-head attention (Vaswani et al. 2017, section 3.2.2) without its projections.

The `transformer` backbone and the cross-attention adapter share it.

Axes: b batch, s queries, n keys and values, w width, i attention heads, d width of an attention head.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

HEAD = 64  # Width of one attention head, as in the paper's DP-T, which has 4 heads at width 256.


def heads_of(width: int) -> int:
    """Return the number of attention heads for a width: one for every 64 channels, and at least one."""
    heads = max(1, width // HEAD)
    if width % heads:
        raise ValueError(f"width {width} cannot be divided by {heads} attention heads; choose a multiple of {HEAD}")
    return heads


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend from queries (b s w) to keys and values (b n w); return (b s w), before the output projection."""
    q, k, v = (rearrange(each, "b s (i d) -> b i s d", i=heads) for each in (q, k, v))
    return rearrange(nn.functional.scaled_dot_product_attention(q, k, v), "b i s d -> b s (i d)")
