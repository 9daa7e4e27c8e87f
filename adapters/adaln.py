"""AdaLN-Zero (DiT, Peebles & Xie 2023) on a post-norm block.

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulated, Modulation


class AdaLNZeroModulation(Modulation):
    """What enters a block left the norm of the one before, so scaling and shifting it is adaptive layer norm.

    (The first block gets the embedded chunk, which no norm has seen.)
    """

    def __init__(self, values: Tensor):
        self.scale, self.shift, self.gate = values.chunk(3, dim=-1)

    def enter(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale) + self.shift

    def leave(self, y: Tensor) -> Tensor:
        return y * (1 + self.gate)


class AdaLNZero(Adapter):
    """x ← norm(x + (1 + gate) · F(x · (1 + scale) + shift)).

    In DiT the zero-initialised gate closes every block, because there the trunk is still to be trained. Here the
    trunk is pretrained and the adapter starts at what it does, so zero means the pretrained gate.
    """

    name = "adaln_zero"
    modulation = AdaLNZeroModulation

    @staticmethod
    def values_per_block(backbone: Modulated) -> int:
        return 3 * backbone.width
