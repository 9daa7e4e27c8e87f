"""Continuous representations of decoded rotations: each is written in the way closest to the previous time step.

Axes: `...` any leading axes, `h` time steps; a form of `rotations` fixes the last one (or two). Angles in rad.

A rotation has two quaternions, and infinitely many rotation vectors and Euler angles that differ by whole turns.
`from_matrix` returns a canonical one of them. Along a motion the canonical one jumps: a quaternion changes its sign at
w = 0, a rotation vector of length pi its direction, and an angle goes from +pi to -pi. A controller that interpolates,
averages or limits such numbers would see a motion that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TURN = 2 * torch.pi


def unwrapped(rotations: Tensor, form: str, dim: int, before: Tensor | None = None) -> Tensor:
    """Rewrite rotations (... h ... *form), with h at `dim`, so that each is written closest to the previous one.

    Args:
        rotations: decoded rotations.
        form: a key of `rotations.SHAPES`.
        dim: the axis h.
        before: the rotation decoded before the first, without the axis h. Without it, the first is left unchanged.
    """
    if form not in NEAREST:
        return rotations
    steps = []
    for rotation in rotations.unbind(dim):
        before = rotation if before is None else nearest(rotation, before, form)
        steps.append(before)
    return torch.stack(steps, dim) if steps else rotations


def nearest(rotation: Tensor, before: Tensor, form: str) -> Tensor:
    """Return the representation (... *form) of the same rotation that is closest to `before`, as a vector.

    Where `before` is NaN, the rotation is returned unchanged.
    """
    if tuple(before.shape) != tuple(rotation.shape):
        raise ValueError(
            f"the previous rotation has shape {tuple(before.shape)}; expected {tuple(rotation.shape)}, the shape of "
            f"the rotation to continue, of form {form!r}"
        )
    if form not in NEAREST:
        return rotation
    before = before.detach().to(rotation)
    known = before.isfinite().all(-1, keepdim=True)
    return torch.where(known, NEAREST[form](rotation, torch.where(known, before, 0)), rotation)


def _sign(quaternion: Tensor, before: Tensor) -> Tensor:
    """Return q or -q, whichever is closer to `before`. The order of w does not matter."""
    return torch.where((quaternion * before).sum(-1, keepdim=True) < 0, -quaternion, quaternion)


def _turns(angle: Tensor, before: Tensor) -> Tensor:
    """Return the number of whole turns that bring an angle closest to `before`."""
    return ((before - angle) / TURN).round()


def _vector(vector: Tensor, before: Tensor) -> Tensor:
    """Add whole turns about the axis of a rotation vector.

    The identity has no axis, and a whole turn about any axis equals it, so the axis of `before` is used there.
    """
    angle, reach = vector.norm(dim=-1, keepdim=True), before.norm(dim=-1, keepdim=True)
    none = angle < 8 * torch.finfo(vector.dtype).eps
    theirs = before / torch.where(reach > 0, reach, 1)
    axis = torch.where(none, theirs, vector / torch.where(none, 1, angle))
    along = torch.where(none, 0, angle)
    return vector + TURN * _turns(along, (before * axis).sum(-1, keepdim=True)) * axis


def _euler(angles: Tensor, before: Tensor) -> Tensor:
    """Return the angles or the equivalent (x + pi, pi - y, z + pi), plus whole turns, whichever are closest.

    In gimbal lock, where y is ±pi/2, x and z rotate about one axis. Only x - z (or x + z) is determined there.
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


# Forms that have several representations of one rotation.
NEAREST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quaternion": _sign,
    "quaternion_wxyz": _sign,
    "axis_angle": _vector,
    "euler_xyz": _euler,
}
