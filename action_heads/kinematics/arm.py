"""An arm as Stage 1 needs it: joint limits, a posture to start from, and forward kinematics.

Axes: `...` any leading axes, `j` joints from base to wrist. Units: rad and rad/s (m and m/s for a sliding joint), m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arm:
    """A serial arm. `forward(joints (..., j), frame)` gives position (..., 3) and matrix (..., 3, 3) in the base frame.

    `frame` names the pose that actions are made of, the one a head is trained for.
    """

    name: str
    lower: Tensor  # (j,)
    upper: Tensor  # (j,)
    velocity: Tensor  # (j,) largest speed
    home: Tensor  # (j,) what the half of synthetic motion that manipulates moves about
    frame: str
    forward: Callable[[Tensor, str], tuple[Tensor, Tensor]]
    # A continuous joint has no limits: lower and upper bound what is drawn for it, not what may be recorded.
    continuous: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.lower)

    def __repr__(self) -> str:
        return f"Arm({self.name!r}, {len(self)} joints, poses of {self.frame!r})"

    def within_limits(self, joints: Tensor, tolerance: float = 0.0) -> Tensor:
        """Joints (..., j) -> bool (..., j): inside the position limits, widened by a tolerance."""
        lower, upper = self.lower.to(joints) - tolerance, self.upper.to(joints) + tolerance
        inside = (joints >= lower) & (joints <= upper)
        return inside | torch.tensor(self.continuous, device=joints.device) if any(self.continuous) else inside
