"""The modulation that belongs to a head: by the diffusion step, and by a code of motion.

Axes: b batch, f step features, r rank, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from action_heads.adapters.base import Adapter, Modulation

if TYPE_CHECKING:
    from action_heads.backbones import Backbone


class HeadModulation(nn.Module):
    """E·(R·f(t) + z): a few dimensions r, which one frozen map E spreads over all sites, for one mechanism.

    f(t) is a curve, so few dimensions hold it. A code z (b r) is what Stage 1 taught the head to be steered by: the
    same map makes a pose, a speed, a moment to close the gripper of it. An adapter may aim with a code instead of, or
    beside, a map of its own to every modulation value. The code zero changes nothing.

    `layers` is what else a mechanism needs to read its values, if anything: cross-attention's projections.
    """

    def __init__(self, mechanism: type[Adapter], backbone: Backbone, rank: int):
        super().__init__()
        self.mechanism, self.sites = mechanism, backbone.sites
        self.values = sum(mechanism.sizes(backbone.sites))
        # whether each step of a chunk may have values of its own
        self.per_position = mechanism.per_position and backbone.per_position
        self.reduce = nn.Linear(backbone.step.width, rank, bias=False)
        self.expand = nn.Linear(rank, self.values)
        self.layers = mechanism.layers(backbone.sites)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        """Features f of all steps (T, f), steps t (...) -> modulation by the step (..., P)."""
        # Picked while narrow: the gradient of picking rows is a scatter, slow at the width of a modulation.
        reduced = self.reduce(features.to(self.reduce.weight.dtype))
        return self.expand(reduced[t])

    def steer(self, code: Tensor) -> Tensor:
        """Codes z (b, 1 or h, r) -> modulation by them (b, 1 or h, P)."""
        weight = self.expand.weight
        return nn.functional.linear(code.to(weight.dtype), weight)

    def at_sites(self, values: Tensor) -> list[Modulation]:
        """Values (b, 1 or h, P) -> the modulation of every site."""
        return self.mechanism.modulations(values, self.sites, self.layers)
