"""What every adapter shares: reading a condition, and one zero-initialised map to the modulation of all blocks.

Axes: b batch, n tokens, c condition, w width, l blocks, p modulation values of one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from action_heads.checks import check_condition
from action_heads.precision import KeepFloat32


class Modulation:
    """How one block is modulated. The identity here; each mechanism overrides what it touches."""

    def __init__(self, values: Tensor):
        """Values (b, 1 or h, p): what the mechanism needs for one block, the same or different for each step."""

    def enter(self, x: Tensor) -> Tensor:
        """Acts on the block's input (b h w)."""
        return x

    def hidden(self, y: Tensor) -> Tensor:
        """Acts on the activated hidden units (b h u)."""
        return y

    def leave(self, y: Tensor) -> Tensor:
        """Acts on the branch before it joins the residual stream (b h w)."""
        return y

    def normalize(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Normalises the residual stream (b h w)."""
        return norm(x)


class Modulated(Protocol):
    """What an adapter needs to know of a backbone."""

    width: int
    hidden: int
    depth: int


@dataclass(frozen=True)
class AdapterConfig:
    """Everything needed to build an adapter again; written beside its weights."""

    mechanism: str
    cond_dim: int
    hidden_dim: int | None = None
    relearn_step: bool = False

    def __post_init__(self):
        for name in ("cond_dim", "hidden_dim"):
            value = getattr(self, name)
            if value is None and name == "hidden_dim":
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")


class Adapter(nn.Module):
    """A small trainable network from a condition to the modulation of a frozen backbone.

    The condition is read once, at the width of the head (c -> w -> w), so that a 2048-d embedding costs 0.6M
    parameters rather than one map a block. The map from there to the modulation starts at zero: a fresh adapter is
    the pretrained unconditional head.

    Args:
        cond_dim: width c of the condition: a vector (b, c), or tokens (b, n, c), which are averaged.
        hidden_dim: width of the reading network; the head's own width if not given.
        relearn_step: also train the modulation by the diffusion step, starting from the head's own. This is the
            paper's recipe, in which only backbone and step embedding stay frozen.
    """

    name: ClassVar[str]
    modulation: ClassVar[type[Modulation]]

    def __init__(self, cond_dim: int, *, hidden_dim: int | None = None, relearn_step: bool = False):
        super().__init__()
        self.config = AdapterConfig(self.name, cond_dim, hidden_dim, relearn_step)
        self.step: nn.Module | None = None  # the relearned modulation by the diffusion step, if any
        self.standard = Standardizer(cond_dim)

    @staticmethod
    def values_per_block(backbone: Modulated) -> int:
        """How many modulation values p one block of this backbone takes."""
        raise NotImplementedError

    def build(self, backbone: Modulated) -> None:
        """Create the parameters for a backbone; `ActionHead.attach` calls this."""
        width = self.config.hidden_dim or backbone.width
        self.blocks = backbone.depth
        self.read = nn.Sequential(nn.Linear(self.config.cond_dim, width), nn.Mish(), nn.Linear(width, width), nn.Mish())
        self.generate = nn.Linear(width, self.blocks * self.values_per_block(backbone))
        nn.init.zeros_(self.generate.weight)
        nn.init.zeros_(self.generate.bias)

    @property
    def is_built(self) -> bool:
        return hasattr(self, "generate")

    def standardize(self, cond: Tensor, mask: Tensor | None = None) -> None:
        """Take the statistics of conditions, so that raw robot states or unscaled embeddings may be passed in.

        Args as in `forward`: (n, c), or tokens (n, m, c) with a mask (n, m).
        """
        check_condition(cond, mask, self.config.cond_dim, values=True)
        self.standard.fit(cond if mask is None else cond[mask])

    def forward(self, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """Condition (b, c), or tokens (b, n, c) with mask (b, n) true where valid -> modulation (b, 1, l, p)."""
        pooled = pool(self.standard(cond), mask).to(self.generate.weight.dtype)
        values = self.generate(self.read(pooled))
        return rearrange(values, "b (l p) -> b 1 l p", l=self.blocks)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in vars(self.config).items() if value)


class Standardizer(KeepFloat32):
    """(cond - mean) / std, the identity until it is fitted."""

    mean: Tensor
    std: Tensor

    def __init__(self, cond_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(cond_dim))
        self.register_buffer("std", torch.ones(cond_dim))

    def fit(self, cond: Tensor) -> None:
        """Statistics of conditions (..., c)."""
        cond = cond.detach().reshape(-1, len(self.mean)).float()
        std = cond.std(0, correction=0)
        self.mean.copy_(cond.mean(0))
        # A constant entry carries nothing: leave it unscaled rather than blow up its first deviation.
        self.std.copy_(torch.where(std > 1e-6, std, 1))

    def forward(self, cond: Tensor) -> Tensor:
        return (cond.float() - self.mean) / self.std


def pool(cond: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over valid tokens (b, n, c) -> (b, c); a vector passes through."""
    if cond.ndim == 2:
        return cond
    if mask is None:
        return cond.mean(1)
    weight = mask.to(cond).unsqueeze(-1)
    # where, not a product: what stands in padding may be NaN
    return torch.where(weight > 0, cond, 0).sum(1) / weight.sum(1).clamp(min=1)
