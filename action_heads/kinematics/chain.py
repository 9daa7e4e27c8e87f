"""Batched forward kinematics of a serial chain with arbitrary joint axes.

Axes: `...` any leading axes, `j` joints, 3 metres along x y z. Units: rad, m.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Joint(NamedTuple):
    """A joint of the chain: a fixed transform from the joint before it, then a rotation about or slide along its z."""

    offset: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 3)
    turns: bool
    # For a joint that follows another joint of the arm: that joint's index, a scale and a shift.
    follows: tuple[int, float, float] | None = None


class Chain:
    """The forward kinematics of one chain: the product of its joints' transforms, xyz first as in `panda.forward`."""

    def __init__(self, joints: list[Joint], last: Joint, tip: str):
        self.joints, self.last, self.tip = joints, last, tip
        self.count = sum(joint.follows is None for joint in joints)

    def __call__(self, joints: Tensor, frame: str) -> tuple[Tensor, Tensor]:
        """Return the tip's position (..., 3) in m and matrix (..., 3, 3) in the model's root frame.

        Args:
            joints: joint positions (..., j), floating point.
            frame: the tip; a chain computes no other frame.
        """
        if frame != self.tip:
            raise ValueError(
                f"unknown frame {frame!r}: this arm was read up to its link {self.tip!r}. Read it with tip={frame!r}."
            )
        if joints.shape[-1:] != (self.count,) or not joints.is_floating_point():
            raise ValueError(
                f"joints have shape {tuple(joints.shape)} and dtype {joints.dtype}; "
                f"expected floating point of shape (..., {self.count})."
            )
        values = self._values(joints.movedim(-1, 0))
        cos, sin = values.cos(), values.sin()
        unit = torch.eye(3, dtype=joints.dtype, device=joints.device).reshape(3, 3, *[1] * (joints.dim() - 1))
        axes, position = tuple(unit), torch.zeros_like(unit[0])
        for i, joint in enumerate(self.joints):
            position, axes = _fixed(position, axes, joint)
            x, y, z = axes
            if joint.turns:
                axes = (cos[i] * x + sin[i] * y, cos[i] * y - sin[i] * x, z)
            else:
                position = position + values[i] * z
        position, axes = _fixed(position, axes, self.last)
        batch = (3, *joints.shape[:-1])
        columns = torch.stack([axis.expand(batch) for axis in axes])
        return position.expand(batch).movedim(0, -1), columns.movedim((1, 0), (-2, -1))

    def _values(self, joints: Tensor) -> Tensor:
        """Return the values of all joints of the chain, including coupled ones, from the arm's joints (j, ...)."""
        if self.count == len(self.joints):
            return joints
        own, values = iter(joints), []
        for joint in self.joints:
            source, scale, shift = joint.follows or (0, 1.0, 0.0)
            values.append(next(own) if joint.follows is None else scale * joints[source] + shift)
        return torch.stack(values)


def _fixed(position: Tensor, axes: tuple[Tensor, ...], joint: Joint) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the current frame, moved by a joint's fixed transform."""
    return position + _mix(axes, joint.offset), tuple(_mix(axes, column) for column in joint.axes.T)


def _mix(axes: tuple[Tensor, ...], weights: np.ndarray) -> Tensor:
    """Return the sum of axes times weights (3,). Most weights of a real arm are 0 or 1, which cost nothing."""
    terms = [axis if w == 1 else float(w) * axis for axis, w in zip(axes, weights, strict=True) if w]
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(axes[0])
