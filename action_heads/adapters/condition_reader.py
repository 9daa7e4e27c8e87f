"""The layers with which an adapter reads a condition: standardise it, pool its tokens, map it to the adapter's width.

Each of several named sources has its own layers.

Axes: b batch, n tokens, c condition, i attention heads, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.precision import KeepFloat32
from action_heads.actions.normalize import ANY_UNIT, floored


class Standardizer(KeepFloat32):
    """The map (cond - mean) / std, which is the identity until it is fitted."""

    mean: Tensor
    std: Tensor

    def __init__(self, cond_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(cond_dim, dtype=torch.float32))
        self.register_buffer("std", torch.ones(cond_dim, dtype=torch.float32))

    def fit(self, cond: Tensor, mask: Tensor | None = None) -> None:
        """Fit to conditions (..., c), only where a mask (...) is true; `normalize.floored` bounds the divisors."""
        cond = cond if mask is None else cond[mask.bool()]
        cond = cond.detach().reshape(-1, len(self.mean)).float()
        mean = cond.mean(0)
        self.set(mean, floored(cond.std(0, correction=0), mean, ANY_UNIT))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics (c) directly, for conditions whose units are known."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, cond: Tensor) -> Tensor:
        return (cond.float() - self.mean) / self.std


class Pool(nn.Module):
    """A pooling of tokens (b n c) under a mask (b n), true where a token counts, to (b c). It keeps vectors (b c)."""

    def forward(self, cond: Tensor, mask: Tensor | None) -> Tensor:
        if cond.ndim == 2:
            return cond
        valid = torch.ones_like(cond[..., 0], dtype=torch.bool) if mask is None else mask.bool()
        # `where` instead of a product, since padding may be NaN.
        return self.pool(torch.where(valid.unsqueeze(-1), cond, 0), valid)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Pool tokens (b n c), which are zero where `valid` (b n) is false."""
        raise NotImplementedError


class Mean(Pool):
    """The mean of the valid tokens."""

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        return tokens.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)


class Last(Pool):
    """The last valid token of a row, with padding on either side. In a causal model it depends on all others."""

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        last = torch.where(valid, torch.arange(valid.shape[1], device=valid.device), 0).amax(1)
        return tokens[torch.arange(len(tokens), device=valid.device), last]


class Attention(Pool):
    """Attention by four learned queries, softmax(tokens · q_i / √c) · tokens -> (b i c), which starts as the mean.

    There is no key projection, because it would only multiply a constant query. `Read` is the value projection.

    A vector counts as one token of weight 1, whatever the queries are. The queries then get a zero gradient, since DDP
    waits for the gradient of every parameter.
    """

    heads = 4

    def __init__(self, cond_dim: int):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(self.heads, cond_dim))

    def forward(self, cond: Tensor, mask: Tensor | None) -> Tensor:
        return cond + 0 * self.query.sum() if cond.ndim == 2 else super().forward(cond, mask)

    def pool(self, tokens: Tensor, valid: Tensor) -> Tensor:
        score = torch.einsum("b n c, i c -> b i n", tokens, self.query.float()) / tokens.shape[-1] ** 0.5
        score = score.masked_fill(~valid.unsqueeze(1), torch.finfo(score.dtype).min)
        return torch.einsum("b i n, b n c -> b i c", score.softmax(-1), tokens)


POOLS: dict[str, Callable[[int], Pool]] = {"mean": lambda _: Mean(), "last": lambda _: Last(), "attention": Attention}


class Read(nn.Linear):
    """A linear map from a pooled condition (b c) to (b w). Each attention head of (b i c) feeds its share of w."""

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.weight.dtype)
        if x.ndim == 2:
            return super().forward(x)
        weights = self.weight.tensor_split(x.shape[1])
        y = [nn.functional.linear(head, weight) for head, weight in zip(x.unbind(1), weights, strict=True)]
        return torch.cat(y, -1) + self.bias


class Each(nn.ModuleDict):
    """One module for each named source of a condition."""

    def forward(self, cond: Mapping[str, Tensor], *masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        return {name: module(cond[name], *(of(mask, name) for mask in masks)) for name, module in self.items()}


class Standardizers(Each):
    """One standardizer for each named source."""

    def fit(self, cond: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None) -> None:
        """Fit those of the given sources."""
        for name, part in cond.items():
            self[name].fit(part, of(mask, name))  # type: ignore[operator]


class ReadAll(Each):
    """The sum of one linear map for each source, so that a wide source does not drown a narrow one."""

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        return torch.stack(list(super().forward(x).values())).sum(0)


def of(masks: Mapping[str, Tensor] | None, name: str) -> Tensor | None:
    """Return the mask of a source, or None."""
    return None if masks is None else masks.get(name)


def for_sources(widths: Any, make: Callable[[int], nn.Module], several: type[Each] = Each) -> nn.Module:
    """Make one module for a condition of one width, or one for each named source."""
    return several({k: make(v) for k, v in widths.items()}) if isinstance(widths, Mapping) else make(widths)
