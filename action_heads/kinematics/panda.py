"""Forward kinematics of the Franka Panda, batched and differentiable.

Axes: `...` any leading axes, 7 joints from base to wrist, 3 metres along x y z.
Units: rad, rad/s, m. Everything is expressed in the robot base frame (`panda_link0`, z up).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from action_heads.kinematics.arm import Arm

# Franka's published limits (Panda / FER datasheet): position in rad, velocity in rad/s.
JOINT_MIN = torch.tensor([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
JOINT_MAX = torch.tensor([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
VELOCITY_MAX = torch.tensor([2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100])

# The FR3's, whose links are the Panda's: DROID holds both arms. Joints 1 and 5 turn less far, joints 6 and 7 further.
FR3_MIN = torch.tensor([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])
FR3_MAX = torch.tensor([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])

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

# robosuite hangs its hand on the flange by the rounded quaternion (0.924, 0, 0, -0.383): -45.03 and not -45 degrees.
ROBOSUITE_TURN = -2 * math.atan2(0.383, 0.924)
TCP_BEYOND_SITE = 0.0069  # m: robosuite's grip site lies that much short of Franka's TCP
TCP = 0.1034  # m from the flange

# Frames fixed to the flange: metres along its z, then a turn about that z in rad.
FRAMES = {
    # What DROID records as cartesian_position: panda_link8.
    "flange": (0.0, 0.0),
    # panda_hand: the foot of Franka's gripper.
    "hand": (0.0, -math.pi / 4),
    # Franka's own hand frame, O_T_EE: between the fingertips, x and y along the hand rather than the flange.
    "tcp": (TCP, -math.pi / 4),
    # robosuite's gripper0_grip_site, in which its controllers work; the same in MimicGen and LIBERO.
    "grip_site": (TCP - TCP_BEYOND_SITE, ROBOSUITE_TURN - math.pi / 2),
    # What robosuite RECORDS: robot0_eef_pos is the grip site's, robot0_eef_quat the right_hand body's, a quarter turn
    # apart.
    "robosuite_eef": (TCP - TCP_BEYOND_SITE, ROBOSUITE_TURN),
}


def forward(joints: Tensor, frame: str = "tcp") -> tuple[Tensor, Tensor]:
    """Return the pose of `frame` in the robot base frame.

    joints (..., 7) rad -> position (..., 3) m, matrix (..., 3, 3) whose columns are the frame's axes.

    Each joint moves the running frame (x, y, z, position) in three strokes: slide by `a` along x and twist about it,
    slide by `d` along the new z, turn about that z by the joint angle. The axes are held with xyz in front, because
    broadcasting over an inner axis of three is several times slower.
    """
    _check_frame(frame)
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
    """Turn axes x, y (3, ...) about their z by an angle, given as cosine and sine."""
    return cos * x + sin * y, cos * y - sin * x


def reframe(position: Tensor, matrix: Tensor, source: str, target: str) -> tuple[Tensor, Tensor]:
    """Map the pose of one of `FRAMES`, (..., 3) and (..., 3, 3), to that of another, both in the same outer frame."""
    _check_frame(source)
    _check_frame(target)
    (along, about), (further, turned) = FRAMES[source], FRAMES[target]
    x, y, z = matrix.unbind(-1)
    turn = turned - about
    x, y = _turn(x, y, math.cos(turn), math.sin(turn))
    return position + (further - along) * z, torch.stack((x, y, z), dim=-1)


def _check_frame(frame: str) -> None:
    if frame not in FRAMES:
        raise ValueError(f"unknown frame {frame!r}; the Panda knows {', '.join(map(repr, FRAMES))}")


PANDA = Arm("panda", JOINT_MIN, JOINT_MAX, VELOCITY_MAX, HOME, "tcp", forward)
