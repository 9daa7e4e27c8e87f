"""FiLM (Perez et al. 2018), as the paper's DP-MLP uses it: scale and shift of the hidden units of every block.

Axes: b batch, h horizon, u hidden units.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulation


class FiLMModulation(Modulation):
    def __init__(self, values: Tensor):
        self.scale, self.shift = values.chunk(2, dim=-1)

    def hidden(self, y: Tensor) -> Tensor:
        return y * (1 + self.scale) + self.shift


class FiLM(Adapter):
    """Hidden units y ← y · (1 + scale) + shift."""

    name = "film"
    modulation = FiLMModulation
    slots = ("hidden_scale", "hidden_shift")
