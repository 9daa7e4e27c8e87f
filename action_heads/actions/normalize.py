"""Actions in robot units <-> actions of the network's size; and one floor under every statistic that is divided by.

Axes: `...` any leading axes, `a` action width, `d` columns of an observation. Units: robot units (m, rad) outside,
roughly [-1, 1] inside.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from action_heads._util.precision import KeepFloat32
from action_heads.actions.spaces import NORMALIZED, WIDTHS, ActionSpace

# What a dimension moves by if it hardly moves: 1 mm or 1 mrad. It is the least half-range of actions, so that a
# network's noise stays under a millimetre in robot units. Dividing by a true range near zero would turn any later
# deviation into a huge number instead. Observations have the same floor: see `floored`.
FLOOR = 1e-3

# Embeddings have no unit: their floor follows the typical spread of their own columns, down to this share of `FLOOR`.
ANY_UNIT = 1e-2


def floored(spread: Tensor, centre: Tensor, least: float = 1.0) -> Tensor:
    """Return what the deviations of observed columns are divided by: their spread (d), or more where they hardly moved.

    The floor is `FLOOR` of a unit. For a robot's state that is 1 m or 1 rad (`least=1`), or the mean spread of all
    columns where that is more, as it is for degrees and pixels. Embeddings come in any unit (`least=ANY_UNIT`), so
    their mean spread is the unit, however small. The unit is at least a tenth of a column's distance from zero, since
    floats and sensors are exact to a share of what they measure.

    A spread below the floor is noise, and the weights behind such a column were never trained on anything else. So the
    less it moved, the less a later deviation counts: one that moved by the floor is divided by the floor, one that
    never moved by a whole unit. Actions differ: a scale multiplies them on their way out, so it is raised to the floor
    and no further.

    Args:
        spread: standard deviations or half-ranges, not negative.
        centre: means or middles, of the same shape. All columns are of one source.
    """
    unit = torch.maximum(centre.abs() / 10, spread.mean()).clamp(min=least)
    floor = FLOOR * unit
    return torch.maximum(spread, torch.minimum(floor.square() / spread, unit.clamp(min=1)))


class Normalizer(KeepFloat32):
    """normalize(x) = (x - offset) / scale, and its exact inverse.

    Statistics are buffers, so they travel with `state_dict` and `to(device)`; they never train and never leave fp32,
    even under `.half()`: bf16 would move a metre by 4 mm. Outputs are fp32 or, for fp64 input, fp64.
    """

    offset: Tensor  # (a,); in a bank, whose rows have statistics of their own, (b 1 a)
    scale: Tensor

    def __init__(self, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        if not offset.dim() or offset.shape != scale.shape:
            raise ValueError(f"offset {tuple(offset.shape)} and scale {tuple(scale.shape)} must both be (a,)")
        if not (offset.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(f"offset and scale must be finite and scale positive, not {offset} and {scale}")
        self.register_buffer("offset", offset.detach().to(torch.float32).clone())
        self.register_buffer("scale", scale.detach().to(torch.float32).clone())

    @classmethod
    def identity(cls, space: ActionSpace) -> Normalizer:
        """Changes nothing."""
        return cls(torch.zeros(space.dim), torch.ones(space.dim))

    @classmethod
    def from_range(
        cls, minimum: Sequence[float] | Tensor, maximum: Sequence[float] | Tensor, space: ActionSpace
    ) -> Normalizer:
        """Map [minimum, maximum] to [-1, 1]: one value (m or rad) for each position and joint of `space`, in order."""
        low, high = (torch.as_tensor(bound, dtype=torch.float64, device="cpu") for bound in (minimum, maximum))
        count = int(space.normalized_mask.sum())
        if low.shape != (count,) or high.shape != (count,):
            raise ValueError(
                f"minimum {tuple(low.shape)} and maximum {tuple(high.shape)}: this space normalises {count} of its "
                f"{space.dim} dimensions (positions and joints), so both must be ({count},)"
            )
        if not (low <= high).all():
            raise ValueError(f"minimum {low.tolist()} must not exceed maximum {high.tolist()}")
        offset, scale = torch.zeros(space.dim, dtype=torch.float64), torch.ones(space.dim, dtype=torch.float64)
        offset[space.normalized_mask] = (low + high) / 2
        scale[space.normalized_mask] = ((high - low) / 2).clamp(min=FLOOR)
        return cls(offset, scale)

    @classmethod
    def fit(cls, actions: Tensor, space: ActionSpace, margin: float = 0.0) -> Normalizer:
        """Min-max of actions (..., a) to [-1, 1]; `margin` widens the range on each side by that share of its half.

        Rotations and grippers pass through. A half-range below `FLOOR` is raised to it.
        """
        if actions.shape[-1:] != (space.dim,) or actions.numel() == 0:
            raise ValueError(f"actions have shape {tuple(actions.shape)}; expected (..., {space.dim}), at least one")
        if margin < 0:
            raise ValueError(f"margin {margin} would cut off data; it must be 0 or more")
        used = actions.detach().reshape(-1, space.dim)[:, space.normalized_mask.to(actions.device)].double()
        if not used.isfinite().all():
            raise ValueError("actions hold NaN or infinity; ActionSpace.validate says where")
        low, high = used.aminmax(dim=0)
        widen = margin * (high - low) / 2
        return cls.from_range((low - widen).cpu(), (high + widen).cpu(), space)

    def normalize(self, actions: Tensor) -> Tensor:
        """Robot units (..., a) -> network units (..., a)."""
        self._check(actions)
        return (actions - self.offset) / self.scale

    def unnormalize(self, actions: Tensor) -> Tensor:
        """Network units (..., a) -> robot units (..., a)."""
        self._check(actions)
        return actions * self.scale + self.offset

    def _check(self, actions: Tensor) -> None:
        if actions.shape[-1:] != self.scale.shape[-1:]:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; this normalizer expects (..., {self.scale.shape[-1]})"
            )

    def extra_repr(self) -> str:
        """One entry per dimension that is changed: its range in robot units."""
        if self.scale.is_meta:
            return f"{len(self.scale)} dims"
        touched = ((self.offset != 0) | (self.scale != 1)).nonzero().flatten().tolist()
        low, high = (self.offset - self.scale).tolist(), (self.offset + self.scale).tolist()
        ranges = ", ".join(f"{i}: [{low[i]:.4g}, {high[i]:.4g}]" for i in touched)
        return f"{len(self.scale)} dims, {ranges or 'identity'}"


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
