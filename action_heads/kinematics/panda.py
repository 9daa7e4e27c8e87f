"""Forward kinematics of the Franka Panda, batched and differentiable.

Axes: `...` any leading axes, 7 joints from base to wrist, 3 metres along x y z.
Units: rad, rad/s, m. Everything is expressed in the robot base frame (`panda_link0`, z up).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Franka's published limits (Panda / FER datasheet): position in rad, velocity in rad/s.
JOINT_MIN = torch.tensor([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_MAX = torch.tensor([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
VELOCITY_MAX = torch.tensor([2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100])

# Franka's published "ready" posture: elbow up, hand pointing down in front of the base.
HOME = torch.tensor([0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4])

# Craig's (modified) DH, one row a joint: a (m), d (m), alpha in quarter turns. Published by Franka.
# A twist of a quarter turn only swaps two axes, so no sine or cosine of alpha, and no rounding, is ever needed.
DH = (
    (0.0, 0.333, 0),
    (0.0, 0.0, -1),
    (0.0, 0.316, 1),
    (0.0825, 0.0, 1),
    (-0.0825, 0.384, -1),
    (0.0, 0.0, 1),
    (0.088, 0.0, 1),
)
FLANGE = 0.107  # m along z from the last joint to the flange (panda_link8)

# Frames fixed to the flange: metres along its z, then a turn about that z in rad.
FRAMES = {
    # What DROID records as cartesian_position.
    "flange": (0.0, 0.0),
    # Franka's own hand frame, O_T_EE: between the fingertips, x and y along the hand rather than the flange.
    "tcp": (0.1034, -math.pi / 4),
}


def forward(joints: Tensor, frame: str = "tcp") -> tuple[Tensor, Tensor]:
    """The pose of `frame` in the robot base frame.

    joints (..., 7) rad -> position (..., 3) m, matrix (..., 3, 3) whose columns are the frame's axes.

    Each joint moves the running frame (x, y, z, position) in three strokes: slide by `a` along x and twist about it,
    slide by `d` along the new z, turn about that z by the joint angle. The axes are held with xyz in front, because
    broadcasting over an inner axis of three is several times slower.
    """
    if frame not in FRAMES:
        raise ValueError(f"unknown frame {frame!r}; the Panda knows {', '.join(map(repr, FRAMES))}")
    if joints.shape[-1:] != (7,) or not joints.is_floating_point():
        raise ValueError(
            f"joints have shape {tuple(joints.shape)} and dtype {joints.dtype}; expected floating point (..., 7) in rad"
        )
    angles = joints.movedim(-1, 0)  # (7, ...)
    cos, sin = angles.cos(), angles.sin()
    unit = torch.eye(3, dtype=joints.dtype, device=joints.device).reshape(3, 3, *[1] * (joints.dim() - 1))
    x, y, z = unit
    position = torch.zeros_like(x)
    for joint, (a, d, quarter) in enumerate(DH):
        if a:
            position = position + a * x
        if quarter:
            y, z = (z, -y) if quarter > 0 else (-z, y)
        if d:
            position = position + d * z
        x, y = _turn(x, y, cos[joint], sin[joint])
    along, about = FRAMES[frame]
    position = position + (FLANGE + along) * z
    if about:
        x, y = _turn(x, y, math.cos(about), math.sin(about))
    return position.movedim(0, -1), torch.stack((x, y, z)).movedim((1, 0), (-2, -1))


def _turn(x: Tensor, y: Tensor, cos: Tensor | float, sin: Tensor | float) -> tuple[Tensor, Tensor]:
    """Axes x, y (3, ...) turned about their z by an angle given as cosine and sine."""
    return cos * x + sin * y, cos * y - sin * x


def within_limits(joints: Tensor) -> Tensor:
    """Joints (..., 7) rad -> bool (...): every joint inside Franka's position limits."""
    return ((joints >= JOINT_MIN.to(joints)) & (joints <= JOINT_MAX.to(joints))).all(-1)
