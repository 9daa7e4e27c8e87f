"""Additive injection, the simplest mechanism in the paper's comparison (Decoupled Action Expert, section IV-E).

Axes: b batch, h horizon, w width.
"""

from __future__ import annotations

from torch import Tensor

from action_heads.adapters.base import Adapter, Modulation


class AdditiveModulation(Modulation):
    """A shift of a branch's input."""

    def __init__(self, values: Tensor):
        self.shift = values

    def enter(self, x: Tensor) -> Tensor:
        return x + self.shift


class Additive(Adapter):
    """An adapter by additive injection: x ← x + F(norm(x) + shift). See `Adapter` for the arguments."""

    name = "additive"
    modulation = AdditiveModulation
    slots = ("enter_shift",)
