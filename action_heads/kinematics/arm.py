"""`Arm`: the joint limits, home posture and forward kinematics that Stage 1 needs.

Axes: `...` any leading axes, `j` joints from base to wrist. Units: rad and rad/s (m and m/s for a sliding joint), m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arm:
    """A serial arm.

    `forward` maps joints (..., j) and the name of a frame to its position (..., 3) and rotation matrix (..., 3, 3) in
    the base frame. `frame` is the frame whose poses are the actions.
    """

    name: str
    lower: Tensor  # (j,)
    upper: Tensor  # (j,)
    velocity: Tensor  # (j,) largest speed
    home: Tensor  # (j,) centre of the half of synthetic motion that resembles manipulation
    frame: str
    forward: Callable[[Tensor, str], tuple[Tensor, Tensor]]
    # For a continuous joint, lower and upper bound the synthetic motion, but not recorded motion.
    continuous: tuple[bool, ...] = ()
    file: Path | None = None  # URDF or MJCF file that it was read from

    def __len__(self) -> int:
        return len(self.lower)

    def __repr__(self) -> str:
        return f"Arm({self.name!r}, {len(self)} joints, poses of {self.frame!r})"

    def within_limits(self, joints: Tensor, tolerance: float = 0.0) -> Tensor:
        """Return which joints (..., j) are within the position limits, widened by a tolerance: bool (..., j)."""
        lower, upper = self.lower.to(joints) - tolerance, self.upper.to(joints) + tolerance
        inside = (joints >= lower) & (joints <= upper)
        return inside | torch.tensor(self.continuous, device=joints.device) if any(self.continuous) else inside
