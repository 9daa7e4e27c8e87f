"""AdaLN and AdaLN-Zero (DiT, Peebles & Xie 2023, section 3.2).

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulation


class AdaLNModulation(Modulation):
    """What enters a branch left a norm, so scaling and shifting it is adaptive layer norm.

    (The first block of a post-norm backbone gets the embedded chunk, which no norm has seen.)
    """

    def __init__(self, values: Tensor):
        self.scale, self.shift = values.chunk(2, dim=-1)

    def enter(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale) + self.shift


class AdaLN(Adapter):
    """x ← x + F(norm(x) · (1 + scale) + shift)."""

    name = "adaln"
    modulation = AdaLNModulation
    slots = ("enter_scale", "enter_shift")


class AdaLNZeroModulation(AdaLNModulation):
    def __init__(self, values: Tensor):
        self.scale, self.shift, self.gate = values.chunk(3, dim=-1)

    def leave(self, y: Tensor) -> Tensor:
        return y * (1 + self.gate)


class AdaLNZero(Adapter):
    """x ← x + (1 + gate) · F(norm(x) · (1 + scale) + shift).

    In DiT the zero-initialised gate closes every block, because there the trunk is still to be trained. Here the
    trunk is pretrained and the adapter starts at what it does, so zero means the pretrained gate.
    """

    name = "adaln_zero"
    modulation = AdaLNZeroModulation
    slots = ("enter_scale", "enter_shift", "gate")
