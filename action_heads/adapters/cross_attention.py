"""Cross-attention to tokens, as in Diffusion Policy's transformer (Decoupled Action Expert, section IV-E).

Axes: b batch, h horizon, n tokens, w width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from action_heads._util.attention import attend, heads_of
from action_heads.adapters.base import Modulation, Site
from action_heads.adapters.tokens import TokenAdapter


class CrossAttentionLayer(nn.Module):
    """The map W_o attention(W_q norm(x), W_k tokens, W_v tokens), for x (b h w) and tokens (b n w) -> (b h w)."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = heads_of(width)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        dtype = self.norm.weight.dtype  # A relearned layer is float32, whatever the head is.
        x, tokens = x.to(dtype), tokens.to(dtype)
        k, v = self.key_value(tokens).chunk(2, dim=-1)
        return self.out(attend(self.query(self.norm(x)), k, v, self.heads))


class CrossAttentionModulation(Modulation):
    """Tokens for the cross-attention after a self-attention branch."""

    def __init__(self, values: Tensor, layer: nn.Module):
        self.tokens, self.layer = values, layer

    def attend(self, x: Tensor) -> Tensor:
        # The tokens are made contiguous, because torch multiplies an expanded row by another routine, which rounds
        # differently.
        tokens = self.tokens.expand(len(x), -1, -1).contiguous()
        return x + self.layer(x, tokens).to(x.dtype)


class CrossAttention(TokenAdapter):
    """An adapter by cross-attention: x ← x + W_o attention(W_q norm(x), W_k tokens, W_v tokens).

    It acts after each self-attention. The norms and projections belong to the head: Stage 1 trains them, and they are
    frozen with it, so only the tokens train. `relearn_step=True` trains a copy of them too. In the paper freezing costs
    this mechanism most of its success (MimicGen 61.3 % to 19.8 %). See `Adapter` for the arguments.
    """

    name = "cross_attention"
    modulation = CrossAttentionModulation

    @classmethod
    def layers(cls, sites: Sequence[Site]) -> nn.ModuleList:
        return nn.ModuleList(CrossAttentionLayer(site.width) for site in sites if site.attends)

    @classmethod
    def modulations(
        cls, values: Tensor, sites: Sequence[Site], layers: nn.ModuleList | None = None
    ) -> list[Modulation]:
        tokens, own = cls.as_tokens(values), iter(layers or ())
        return [CrossAttentionModulation(tokens, next(own)) if s.attends else Modulation(tokens) for s in sites]
