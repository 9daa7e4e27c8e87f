"""Conversion of recorded episodes to robot units, and resampling to another rate.

Axes: `t` time steps of one episode, `j` joints. Units: rad, m, the robot's base frame; gripper -1 open, +1 closed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from action_heads.actions.rotations import SHAPES, convert, from_matrix, to_matrix
from action_heads.data.motion import Raw
from action_heads.data.schema import JOINT_UNITS, POSITION_UNITS, Schema
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.panda import PANDA, reframe


class Steps(NamedTuple):
    """One episode in robot units, ready for the table."""

    joints: np.ndarray | None  # (t, j) float32
    poses: np.ndarray | None  # (t, 9) float32; None if the arm's forward kinematics computes them
    gripper: np.ndarray  # (t,) float32


def to_steps(raw: Raw, schema: Schema, arm: Arm | None, base: np.ndarray | None) -> Steps:
    """Convert units, frames and the gripper's direction. Poses are dropped if the joints of a known arm give them."""
    joints = None if raw.joints is None else (raw.joints * JOINT_UNITS[schema.joints_unit]).astype(np.float32)
    poses = None
    if joints is None or arm is None:
        assert raw.position is not None
        assert raw.rotation is not None
        poses = _poses(raw.position, raw.rotation, schema, arm, base)
    return Steps(joints, poses, _gripper(raw, schema))


def _poses(
    position: np.ndarray, rotation: np.ndarray, schema: Schema, arm: Arm | None, base: np.ndarray | None
) -> np.ndarray:
    metres = torch.from_numpy(position * POSITION_UNITS[schema.position_unit]).double()
    matrix = matrix_of(torch.from_numpy(rotation).double(), schema.rotation_form)
    if base is not None:
        metres = metres - torch.from_numpy(base)
    if arm is PANDA:
        metres, matrix = reframe(metres, matrix, schema.frame, PANDA.frame)
    return torch.cat((metres, from_matrix(matrix, "6d")), dim=-1).float().numpy()


def matrix_of(rotation: Tensor, form: str) -> Tensor:
    """Return the matrices (t, 3, 3) of rotations (t, width) in a form, a key of `SHAPES`."""
    return to_matrix(rotation.unflatten(-1, SHAPES[form]), form)


def _gripper(raw: Raw, schema: Schema) -> np.ndarray:
    """Return the gripper (t,), -1 or +1. Rows where it was not recorded (NaN), or all rows, count as open."""
    if raw.gripper is None:
        return np.full(len(raw), -1.0, dtype=np.float32)
    share = (raw.gripper - schema.gripper_open) / (schema.gripper_closed - schema.gripper_open)
    return np.where(share > 0.5, 1.0, -1.0).astype(np.float32)


def _turned(joints: np.ndarray, between: Callable[[np.ndarray], Tensor], continuous: Sequence[bool]) -> np.ndarray:
    """Interpolate joints (t, j). Those that are continuous stay within ±π if they were recorded so."""
    free = np.flatnonzero(continuous)
    whole = joints.astype(np.float64)
    whole[:, free] = np.unwrap(whole[:, free], axis=0)
    found = between(whole).numpy()
    wrapped = free[np.abs(joints[:, free]).max(0, initial=0) <= np.pi + 1e-3]
    found[:, wrapped] = (found[:, wrapped] + np.pi) % (2 * np.pi) - np.pi
    return found.astype(np.float32)


def resample(steps: Steps, recorded_hz: float, rate_hz: float, continuous: Sequence[bool] = ()) -> Steps:
    """Resample a motion to another rate: joints and positions linearly, rotations along great arcs.

    The gripper keeps its last value. A rate above the recorded one adds time steps, but no information. A joint that is
    `continuous` turns the shorter way between two time steps, also over ±π.
    """
    if abs(recorded_hz - rate_hz) < 1e-6:
        return steps
    count = len(steps.gripper)
    # Without a tolerance of a millionth of a step, rounding could drop the last recorded step.
    times = np.arange(int(np.floor((count - 1) * rate_hz / recorded_hz + 1e-6)) + 1) * recorded_hz / rate_hz
    before = np.minimum(times.astype(np.int64), max(count - 2, 0))
    after = np.minimum(before + 1, count - 1)
    share = torch.from_numpy(times - before)[:, None]

    def between(values: np.ndarray) -> Tensor:
        first, second = (torch.from_numpy(values[i]).double() for i in (before, after))
        return torch.lerp(first, second, share)

    joints = None if steps.joints is None else _turned(steps.joints, between, continuous)
    poses = None
    if steps.poses is not None:
        first, second = (to_matrix(torch.from_numpy(steps.poses[i, 3:]).double(), "6d") for i in (before, after))
        turn = share * convert(second @ first.mT, "matrix", "axis_angle")
        rotation = from_matrix(to_matrix(turn, "axis_angle") @ first, "6d")
        poses = torch.cat((between(steps.poses[:, :3]), rotation), dim=-1).float().numpy()
    held = np.minimum(np.floor(times + 1e-6).astype(np.int64), count - 1)
    return Steps(joints, poses, steps.gripper[held])
