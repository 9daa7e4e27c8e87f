"""AdaLN and AdaLN-Zero (DiT, Peebles & Xie 2023, section 3.2).

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulation


class AdaLNModulation(Modulation):
    """Scale and shift of a branch's input.

    The input comes from a layer norm, so this is adaptive layer norm. Only the first block of a post-norm backbone
    takes the embedded chunk, which is not normalised.
    """

    def __init__(self, values: Tensor):
        self.scale, self.shift = values.chunk(2, dim=-1)

    def enter(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale) + self.shift


class AdaLN(Adapter):
    """An adapter by AdaLN: x ← x + F(norm(x) · (1 + scale) + shift).

    AdaLN is DiT's adaptive layer norm (Peebles & Xie 2023, section 3.2). See `Adapter` for the arguments.
    """

    name = "adaln"
    modulation = AdaLNModulation
    slots = ("enter_scale", "enter_shift")


class AdaLNZeroModulation(AdaLNModulation):
    """Scale and shift of a branch's input, and a gate on its output."""

    def __init__(self, values: Tensor):
        self.scale, self.shift, self.gate = values.chunk(3, dim=-1)

    def leave(self, y: Tensor) -> Tensor:
        return y * (1 + self.gate)


class AdaLNZero(Adapter):
    """An adapter by AdaLN-Zero: x ← x + (1 + gate) · F(norm(x) · (1 + scale) + shift).

    AdaLN-Zero is from DiT (Peebles & Xie 2023, section 3.2). DiT's gate starts at 0 and closes every block, since its
    backbone starts untrained. Here the backbone is pretrained, so an adapter's gate of 0 leaves the pretrained gate
    unchanged. See `Adapter` for the arguments.

    Examples:
        >>> from action_heads.adapters import AdaLNZero
        >>> AdaLNZero(cond_dim=2048, through="code", hidden_dim=64).config.through
        'code'
    """

    name = "adaln_zero"
    modulation = AdaLNZeroModulation
    slots = ("enter_scale", "enter_shift", "gate")
