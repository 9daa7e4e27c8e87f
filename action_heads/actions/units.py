"""A check of the units of actions."""

from __future__ import annotations

import warnings

from torch import Tensor

from action_heads.actions.spaces import NORMALIZED, WIDTHS, ActionSpace


def check_units(x0: Tensor, clip: float, space: ActionSpace) -> None:
    """Warn where normalised actions x0 (b h a) lie so far out that sampling, which clips, can never reach them."""
    reach = x0.detach().abs().amax((0, 1))
    worst = int(reach.argmax())
    if reach[worst] > 1.5 * clip:
        kind = next(kind for kind in WIDTHS if any(p.start <= worst < p.stop for p in space.slices(kind)))
        remedy = (
            "check the units (m, rad), or pass normalizer=Normalizer.fit(actions, space) to attach"
            if kind in NORMALIZED
            else "rotations are 6-D rows of a matrix and grippers lie between -1 and +1"
        )
        warnings.warn(
            f"action dimension {worst} ({kind}) reaches {reach[worst]:.3g} where the head works within ±{clip:g}, "
            f"and sampling clips there: {remedy}",
            stacklevel=3,
        )
