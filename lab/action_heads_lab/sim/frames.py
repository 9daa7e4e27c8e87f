"""Poses, rotations, and the transform between the hand frames of robosuite and Franka.

Frames, all right-handed, metres and radians:
    world   the frame of MuJoCo, in which the robot stands on a pedestal (its base is 0.9 m up)
    base    the foot of the robot, `panda_link0` for the Panda; the frame of all actions and observations here
    flange  `panda_link8`, the end of the arm's forward kinematics
    TCP     Franka's own hand frame O_T_EE: flange, then 0.1034 m along z, turned -45 degrees about z.
            z points out of the hand, the fingers open along y.
    site    robosuite's `gripper0_grip_site`, the frame in which its OSC controller works

A UR5e has its own base and flange, but the same hand as the Panda, so site and TCP are the same frames of the hand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UP = np.array([0.0, 0.0, 1.0])


class Pose(NamedTuple):
    """A rigid transform, where `a_from_b @ b_from_c` is `a_from_c`."""

    p: np.ndarray  # (3,) metres
    R: np.ndarray  # (3, 3) rotation matrix

    def __matmul__(self, other: Pose) -> Pose:
        return Pose(self.p + self.R @ other.p, self.R @ other.R)

    def inverse(self) -> Pose:
        """Return the inverse transform."""
        return Pose(-self.R.T @ self.p, self.R.T)

    def raised(self, height: float) -> Pose:
        """Return the pose moved by `height` m along z of the frame that it is expressed in."""
        return Pose(self.p + height * UP, self.R)


def turn_z(angle: float) -> np.ndarray:
    """Return the rotation (3, 3) about z by `angle` rad."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_to_6d(R: np.ndarray) -> np.ndarray:
    """Return the first two ROWS (6,) of a rotation (3, 3), as in pytorch3d. Many robot codebases use columns."""
    return R[:2].reshape(6)


def rotation_from_6d(six: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a 6-D rotation (6,), made orthonormal by Gram-Schmidt."""
    x = six[:3] / np.linalg.norm(six[:3])
    y = six[3:] - x * (x @ six[3:])
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,) in rad of a quaternion (4,) x y z w, up to a full turn.

    The quaternions q and -q are one rotation but have different vectors. LIBERO uses that of the given quaternion.
    scipy uses the shorter one, which jumps between two directions near half a turn, as in a hand that points down.
    """
    xyz, w = np.asarray(quaternion[:3], float), np.clip(quaternion[3], -1.0, 1.0)
    sine = np.linalg.norm(xyz)
    return np.zeros(3) if sine < 1e-10 else xyz * (2 * np.arctan2(sine, w) / sine)


# The same values as in `kinematics.panda`, which would import torch in the simulation processes.
# tests/sim/test_frames.py checks both against the simulator.
ROBOSUITE_TURN = -2 * np.arctan2(0.383, 0.924)
TCP_BEYOND_SITE = 0.0069
TCP_IN_SITE = Pose(np.array([0.0, 0.0, TCP_BEYOND_SITE]), turn_z(np.pi / 2 - ROBOSUITE_TURN - np.pi / 4))
