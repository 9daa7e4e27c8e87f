"""The head's own modulation: by noise level, and by motion code.

Axes: b batch, h horizon, f features of a noise level, r rank, P modulation values of all sites, T noise levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from action_heads.adapters.base import Adapter, Modulation

if TYPE_CHECKING:
    from action_heads.backbones import Backbone


class HeadModulation(nn.Module):
    """The head's modulation E·(R·f(t) + z) for one mechanism: E maps r dimensions to the values of all sites.

    Features f(t) of a noise level lie on a curve, so r dimensions suffice. The motion code z (r) describes
    the motion of a chunk, and Stage 1 taught the head to follow it. An adapter may output a code, in place of or beside
    its own map to all modulation values. A zero code changes nothing.

    Args:
        mechanism: the adapter class of the mechanism.
        backbone: the backbone whose sites are modulated.
        rank: dimensions r.
    """

    def __init__(self, mechanism: type[Adapter], backbone: Backbone, rank: int):
        super().__init__()
        self.mechanism, self.sites = mechanism, backbone.sites
        self.values = sum(mechanism.sizes(backbone.sites))
        # Whether the time steps of a chunk can have different values.
        self.per_position = mechanism.per_position and backbone.per_position
        self.reduce = nn.Linear(backbone.step.width, rank, bias=False)
        self.expand = nn.Linear(rank, self.values)
        self.layers = mechanism.layers(backbone.sites)

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        """Return the step modulation (... P) at noise levels t (...), given the features of all levels (T f)."""
        # Rows are picked at width r, because the gradient of picking is a scatter, which is slow at width P.
        reduced = self.reduce(features.to(self.reduce.weight.dtype))
        return self.expand(reduced[t])

    def steer(self, code: Tensor) -> Tensor:
        """Return the modulation (b, 1 or h, P) by codes z (b, 1 or h, r)."""
        weight = self.expand.weight
        return nn.functional.linear(code.to(weight.dtype), weight)

    def at_sites(self, values: Tensor) -> list[Modulation]:
        """Divide values (b, 1 or h, P) into the modulation of every site."""
        return self.mechanism.modulations(values, self.sites, self.layers)
