"""FiLM (Perez et al. 2018) as in the paper's DP-MLP: scale and shift of the hidden units of every block.

Axes: b batch, h horizon, u hidden units.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulation


class FiLMModulation(Modulation):
    """Scale and shift of the hidden units."""

    def __init__(self, values: Tensor):
        self.scale, self.shift = values.chunk(2, dim=-1)

    def hidden(self, y: Tensor) -> Tensor:
        return y * (1 + self.scale) + self.shift


class FiLM(Adapter):
    """An adapter by FiLM, the paper's mechanism for DP-MLP: hidden units y ← y · (1 + scale) + shift.

    FiLM is from Perez et al. 2018. See `Adapter` for the arguments.
    """

    name = "film"
    modulation = FiLMModulation
    slots = ("hidden_scale", "hidden_shift")
