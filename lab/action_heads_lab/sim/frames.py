"""Poses, the 6-D rotation and the one constant that ties robosuite's hand to Franka's.

Frames, all right-handed, metres and radians:
    world   MuJoCo's; the robot stands somewhere in it (its base is 0.9 m up, on a pedestal)
    base    the foot of the robot, of the Panda `panda_link0`; every action and observation of this package lives here
    flange  `panda_link8`, the end of the arm's forward kinematics
    TCP     Franka's own hand frame O_T_EE: flange, then 0.1034 m along z, turned -45 degrees about z.
            z points out of the hand, the fingers open along y.
    site    robosuite's `gripper0_grip_site`, the frame in which its OSC controller works

Of a UR5e, base and flange are its own; it holds the same hand, so that site and TCP are where they are on the Panda's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UP = np.array([0.0, 0.0, 1.0])


class Pose(NamedTuple):
    """A rigid transform. `a_from_b @ b_from_c` is `a_from_c`."""

    p: np.ndarray  # (3,) metres
    R: np.ndarray  # (3, 3) rotation matrix

    def __matmul__(self, other: Pose) -> Pose:
        return Pose(self.p + self.R @ other.p, self.R @ other.R)

    def inverse(self) -> Pose:
        return Pose(-self.R.T @ self.p, self.R.T)

    def raised(self, height: float) -> Pose:
        """The same orientation, `height` m further along z of the frame the pose is expressed in."""
        return Pose(self.p + height * UP, self.R)


def turn_z(angle: float) -> np.ndarray:
    """Rotation about z by `angle` rad -> (3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_to_6d(R: np.ndarray) -> np.ndarray:
    """(3, 3) -> (6,): the first two ROWS, row-major (pytorch3d's convention; many robot codebases take columns)."""
    return R[:2].reshape(6)


def rotation_from_6d(six: np.ndarray) -> np.ndarray:
    """(6,) -> (3, 3): Gram-Schmidt on the two rows, so that a network's output need not be exactly orthonormal."""
    x = six[:3] / np.linalg.norm(six[:3])
    y = six[3:] - x * (x @ six[3:])
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """(4,) x y z w -> (3,) rad, up to a whole turn.

    Of q and -q, which are one rotation, the vectors differ: scipy takes the shorter, LIBERO the one that is written.
    A hand that points down is near half a turn, where the shorter one jumps from one side to the other.
    """
    xyz, w = np.asarray(quaternion[:3], float), np.clip(quaternion[3], -1.0, 1.0)
    sine = np.linalg.norm(xyz)
    return np.zeros(3) if sine < 1e-10 else xyz * (2 * np.arctan2(sine, w) / sine)


# As `kinematics.panda` has them, which is not imported since the processes of simulation do without torch.
# tests/sim/test_frames.py checks both against the simulator.
ROBOSUITE_TURN = -2 * np.arctan2(0.383, 0.924)
TCP_BEYOND_SITE = 0.0069
TCP_IN_SITE = Pose(np.array([0.0, 0.0, TCP_BEYOND_SITE]), turn_z(np.pi / 2 - ROBOSUITE_TURN - np.pi / 4))
