"""Decoded rotations without jumps: of all ways to write a rotation, take the one nearest to the step before.

Axes: `...` any leading axes, `h` steps; a form of `rotations` fixes the last one (or two). Angles in rad.

A rotation has two quaternions, infinitely many rotation vectors (one on each turn more about the same axis) and twice
infinitely many Euler angles. `from_matrix` gives a canonical one of them. Along a motion it jumps by a whole turn: from
w = 0 to the other sign, from a vector of pi to its opposite, from an angle of +pi to -pi. A controller that
interpolates or averages such numbers, or a speed limit on them, sees a motion that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from action_heads.actions.rotations import SHAPES

TURN = 2 * torch.pi


def unwrapped(rotations: Tensor, form: str, dim: int, before: Tensor | None = None) -> Tensor:
    """Rotations (... h ... *form) with h at `dim` -> the same rotations, each written nearest to the one before it.

    Args:
        before: (... ... *form), what was decoded before the first; without it the first stays as it is.
    """
    if form not in NEAREST:
        return rotations
    steps = []
    for rotation in rotations.unbind(dim):
        before = rotation if before is None else nearest(rotation, before, form)
        steps.append(before)
    return torch.stack(steps, dim) if steps else rotations


def nearest(rotation: Tensor, before: Tensor, form: str) -> Tensor:
    """Of all numbers of this form (... *form) for the same rotation, return those nearest to `before`, as a vector.

    Where `before` is NaN, the rotation is returned as it is.
    """
    if tuple(before.shape) != tuple(rotation.shape):
        raise ValueError(
            f"the rotation before has shape {tuple(before.shape)}, this one {tuple(rotation.shape)}: of form {form!r} "
            f"both end in {SHAPES[form]} and have the same axes before it"
        )
    if form not in NEAREST:
        return rotation
    before = before.detach().to(rotation)
    known = before.isfinite().all(-1, keepdim=True)
    return torch.where(known, NEAREST[form](rotation, torch.where(known, before, 0)), rotation)


def _sign(quaternion: Tensor, before: Tensor) -> Tensor:
    """The one of two quaternions on the same side, in either order of w."""
    return torch.where((quaternion * before).sum(-1, keepdim=True) < 0, -quaternion, quaternion)


def _turns(angle: Tensor, before: Tensor) -> Tensor:
    """How many whole turns bring an angle nearest to another."""
    return ((before - angle) / TURN).round()


def _vector(vector: Tensor, before: Tensor) -> Tensor:
    """Add whole turns about the same axis.

    No turn has no axis, and a whole turn about any axis is none: there the axis of the one before is kept.
    """
    angle, reach = vector.norm(dim=-1, keepdim=True), before.norm(dim=-1, keepdim=True)
    none = angle < 8 * torch.finfo(vector.dtype).eps
    theirs = before / torch.where(reach > 0, reach, 1)
    axis = torch.where(none, theirs, vector / torch.where(none, 1, angle))
    along = torch.where(none, 0, angle)
    return vector + TURN * _turns(along, (before * axis).sum(-1, keepdim=True)) * axis


def _euler(angles: Tensor, before: Tensor) -> Tensor:
    """The angles, or those of the other way round (x + pi, pi - y, z + pi), each by whole turns.

    In gimbal lock, y = +-pi/2, x and z turn about one axis: x - z, or x + z, is given, and the rest is free.
    """
    x, y, z = angles.unbind(-1)
    other = torch.stack((x + torch.pi, torch.pi - y, z + torch.pi), -1)
    near, far = (each + TURN * _turns(each, before) for each in (angles, other))
    further = (far - before).square().sum(-1, keepdim=True) < (near - before).square().sum(-1, keepdim=True)
    free = torch.where(further, far, near)
    locked = y.cos().abs() < 16 * torch.finfo(angles.dtype).eps
    up = y.sin().sign()
    last_x, _, last_z = before.unbind(-1)
    missing = (x - up * z) - (last_x - up * last_z)
    half = (missing - TURN * (missing / TURN).round()) / 2
    held = torch.stack((last_x + half, near[..., 1], last_z - up * half), -1)
    return torch.where(locked[..., None], held, free)


# Forms that write one rotation in several ways.
NEAREST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quaternion": _sign,
    "quaternion_wxyz": _sign,
    "axis_angle": _vector,
    "euler_xyz": _euler,
}
