"""Normalisation of actions, and the least value of every statistic that is divided by.

Axes: `...` any leading axes, `a` action width, `d` columns of an observation. Units: robot units (m, rad) outside,
roughly [-1, 1] in the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from action_heads._util.precision import KeepFloat32
from action_heads.actions.spaces import NORMALIZED, WIDTHS, ActionSpace

# The least half-range of an action dimension: 1 mm or 1 mrad. It keeps a network's noise below a millimetre in robot
# units. Dividing by a true range near zero would turn any later deviation into a huge number. Observations have the
# same floor: see `floored`.
FLOOR = 1e-3

# Embeddings have no unit. Their floor follows the mean spread of their own columns, down to this share of `FLOOR`.
ANY_UNIT = 1e-2


def floored(spread: Tensor, centre: Tensor, least: float = 1.0) -> Tensor:
    """Return the divisors (d) for observed columns: their spread, or more for columns that hardly moved.

    The floor is `FLOOR` times a unit. The unit of a robot's state is 1 m or 1 rad (`least=1`), or the mean spread of
    all columns if that is larger, as with degrees and pixels. Embeddings have no fixed unit (`least=ANY_UNIT`), so the
    unit is their mean spread. The unit of a column is at least a tenth of its distance from zero, since floats and
    sensors have a relative precision.

    A spread below the floor is noise, and the weights for such a column were trained on noise only. Therefore the less
    a column moved, the less a later deviation counts: a column whose spread equals the floor is divided by the floor,
    and a column that never moved is divided by a whole unit. Actions differ, since their scale multiplies the network's
    output: it is only raised to the floor.

    Args:
        spread: standard deviations or half-ranges (d), not negative.
        centre: means or midpoints (d). All columns come from one source.
        least: the smallest unit.
    """
    unit = torch.maximum(centre.abs() / 10, spread.mean()).clamp(min=least)
    floor = FLOOR * unit
    return torch.maximum(spread, torch.minimum(floor.square() / spread, unit.clamp(min=1)))


class Normalizer(KeepFloat32):
    """The map from robot units to the units of a network, (x - offset) / scale, and its inverse.

    The statistics are buffers, so they are part of `state_dict` and follow `to(device)`. They never train, and stay
    float32 even under `.half()`, since bfloat16 would move a position of 1 m by up to 4 mm. Outputs are float32, or
    float64 for float64 inputs.

    Args:
        offset: robot units that map to 0 (a).
        scale: robot units that map to a change of 1 (a), positive.

    Raises:
        ValueError: the shapes differ, or a value is not finite, or a scale is not positive.

    Examples:
        >>> import torch
        >>> from action_heads import EE_ABSOLUTE, Normalizer
        >>> actions = torch.randn(100, 16, 10)  # chunks in robot units
        >>> normalizer = Normalizer.fit(actions, EE_ABSOLUTE)
        >>> positions = normalizer.normalize(actions)[..., :3]
        >>> round(positions.min().item(), 3), round(positions.max().item(), 3)
        (-1.0, 1.0)
        >>> torch.allclose(normalizer.unnormalize(normalizer.normalize(actions)), actions, atol=1e-5)
        True
    """

    offset: Tensor  # (a), or (b 1 a) in an `AdapterBank`, where each row has its own statistics.
    scale: Tensor

    def __init__(self, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not offset.dim() or offset.shape != scale.shape:
            raise ValueError(f"offset and scale must both be (a,), got {tuple(offset.shape)} and {tuple(scale.shape)}")
        known = not offset.is_meta  # a head without memory has no values to check
        if known and not (offset.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(f"offset must be finite and scale finite and positive, got {offset} and {scale}")
        self.register_buffer("offset", offset.detach().to(torch.float32).clone())
        self.register_buffer("scale", scale.detach().to(torch.float32).clone())

    @classmethod
    def identity(cls, space: ActionSpace) -> Normalizer:
        """Return a normalizer that changes nothing."""
        return cls(torch.zeros(space.dim), torch.ones(space.dim))

    @classmethod
    def from_range(
        cls, minimum: Sequence[float] | Tensor, maximum: Sequence[float] | Tensor, space: ActionSpace
    ) -> Normalizer:
        """Return the normalizer that maps [minimum, maximum] to [-1, 1].

        Rotations and grippers are left unchanged. A half-range below `FLOOR` is raised to it.

        Args:
            minimum: one value in m or rad for each position and joint dimension of `space`, in order.
            maximum: likewise.
            space: the action space.

        Raises:
            ValueError: the number of values is wrong, or a minimum exceeds its maximum.
        """
        low, high = (torch.as_tensor(bound, dtype=torch.float64, device="cpu") for bound in (minimum, maximum))
        count = int(space.normalized_mask.sum())
        if low.shape != (count,) or high.shape != (count,):
            raise ValueError(
                f"minimum has shape {tuple(low.shape)} and maximum {tuple(high.shape)}; expected ({count},) for both: "
                f"one value for each position and joint dimension among the {space.dim} of this space"
            )
        if not (low <= high).all():
            raise ValueError(f"minimum {low.tolist()} must not exceed maximum {high.tolist()}")
        offset, scale = (fill(space.dim, dtype=torch.float64, device="cpu") for fill in (torch.zeros, torch.ones))
        offset[space.normalized_mask] = (low + high) / 2
        scale[space.normalized_mask] = ((high - low) / 2).clamp(min=FLOOR)
        return cls(offset, scale)

    @classmethod
    def fit(cls, actions: Tensor, space: ActionSpace, margin: float = 0.0) -> Normalizer:
        """Return the normalizer that maps the range of some actions to [-1, 1].

        Rotations and grippers are left unchanged. A half-range below `FLOOR` is raised to it.

        Args:
            actions: actions (... a) in robot units.
            space: the action space.
            margin: widens each range, by this share of half of it on each side.

        Raises:
            ValueError: the actions have the wrong width, are empty or not finite, or `margin` is negative.
        """
        if actions.shape[-1:] != (space.dim,) or actions.numel() == 0:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; expected (..., {space.dim}), with at least one row"
            )
        if margin < 0:
            raise ValueError(f"margin must be 0 or more, got {margin}, which would cut off data")
        used = actions.detach().reshape(-1, space.dim)[:, space.normalized_mask.to(actions.device)].double()
        if not used.isfinite().all():
            raise ValueError("actions hold NaN or infinity; ActionSpace.validate reports where")
        low, high = used.aminmax(dim=0)
        widen = margin * (high - low) / 2
        return cls.from_range((low - widen).cpu(), (high + widen).cpu(), space)

    def normalize(self, actions: Tensor) -> Tensor:
        """Convert robot units (... a) to network units (... a)."""
        self._check(actions)
        return (actions - self.offset) / self.scale

    def unnormalize(self, actions: Tensor) -> Tensor:
        """Convert network units (... a) to robot units (... a)."""
        self._check(actions)
        return actions * self.scale + self.offset

    def _check(self, actions: Tensor) -> None:
        if actions.shape[-1:] != self.scale.shape[-1:]:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; this normalizer expects (..., {self.scale.shape[-1]})"
            )

    def extra_repr(self) -> str:
        """Return the range in robot units of each dimension that is changed."""
        if self.scale.is_meta:
            return f"{len(self.scale)} dims"
        touched = ((self.offset != 0) | (self.scale != 1)).nonzero().flatten().tolist()
        low, high = (self.offset - self.scale).tolist(), (self.offset + self.scale).tolist()
        ranges = ", ".join(f"{i}: [{low[i]:.4g}, {high[i]:.4g}]" for i in touched)
        return f"{len(self.scale)} dims, {ranges or 'identity'}"


def check_units(x0: Tensor, clip: float, space: ActionSpace) -> None:
    """Warn if normalised actions x0 (b h a) lie so far outside ±`clip` that sampling can never reach them."""
    reach = x0.detach().abs().amax((0, 1))
    worst = int(reach.argmax())
    if reach[worst] > 1.5 * clip:
        kind = next(kind for kind in WIDTHS if any(p.start <= worst < p.stop for p in space.slices(kind)))
        remedy = (
            "check the units (m, rad), or pass normalizer=Normalizer.fit(actions, space) to attach"
            if kind in NORMALIZED
            else "pass rotations as the first two rows of the matrix, and grippers between -1 and +1"
        )
        warnings.warn(
            f"action dimension {worst} ({kind}) reaches {reach[worst]:.3g} after normalisation, but sampling clips at "
            f"±{clip:g}: {remedy}",
            stacklevel=3,
        )
