"""Rotations between the forms that robots, datasets and networks use.

Axes: `...` any leading axes; a form fixes the last one (or two). Angles in rad.

Every form passes through the matrix, whose columns are the rotated frame's axes seen from the base. All is plain tensor
arithmetic, differentiable, without a look at the values: it runs inside a compiled or captured sampling loop. The price
is that a rotation which does not exist (zero quaternion, parallel 6-D rows) gives NaN instead of an error; NaN rather
than something plausible, so that `ActionSpace.validate` or the robot's own guard sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = {
    # columns are axes; taken as it is, never re-orthonormalised
    "matrix": (3, 3),
    # first two ROWS of the matrix, row-major (Zhou et al. 2019, as in pytorch3d)
    "6d": (6,),
    # x y z w, scipy's order
    "quaternion": (4,),
    # w x y z, MuJoCo's order
    "quaternion_wxyz": (4,),
    # rotation vector, its length is the angle
    "axis_angle": (3,),
    # about the FIXED x, then y, then z: scipy's as_euler("xyz"), DROID's cartesian_position
    "euler_xyz": (3,),
}


def to_matrix(rotation: Tensor, form: str) -> Tensor:
    """Rotation (..., *SHAPES[form]) -> matrix (..., 3, 3).

    Quaternions and 6-D rows need not be normalised; they are here. A zero quaternion or parallel 6-D rows give NaN.
    """
    _check(rotation, form)
    return _TO_MATRIX[form](rotation)


def from_matrix(matrix: Tensor, form: str) -> Tensor:
    """Matrix (..., 3, 3) -> rotation (..., *SHAPES[form]).

    Of the two quaternions of a rotation the one with w >= 0 is given; rotation vectors are at most pi long. In gimbal
    lock (second Euler angle +-pi/2) the third Euler angle is 0 and the first carries the turn.
    """
    _check(matrix, "matrix")
    _check_form(form)
    return _FROM_MATRIX[form](matrix)


def convert(rotation: Tensor, source: str, target: str) -> Tensor:
    """Rotation (..., *SHAPES[source]) -> (..., *SHAPES[target]); unchanged where both forms are the same."""
    _check(rotation, source)
    _check_form(target)
    return rotation if source == target else _FROM_MATRIX[target](_TO_MATRIX[source](rotation))


def _check_form(form: str) -> None:
    if form not in SHAPES:
        raise ValueError(f"unknown rotation form {form!r}; choose from {', '.join(map(repr, SHAPES))}")


def _check(rotation: Tensor, form: str) -> None:
    _check_form(form)
    width = SHAPES[form]
    if tuple(rotation.shape[-len(width) :]) != width:
        raise ValueError(
            f"a rotation of form {form!r} ends in {width}, but this tensor has shape {tuple(rotation.shape)}; "
            f"was another form meant? {', '.join(f'{name!r} {shape}' for name, shape in SHAPES.items())}"
        )


def _same(matrix: Tensor) -> Tensor:
    return matrix


def _from_6d(rows: Tensor) -> Tensor:
    """Gram-Schmidt: keep the first row's direction, take the rest of the second, complete right-handed."""
    first, second = rows[..., :3], rows[..., 3:]
    first = first / first.norm(dim=-1, keepdim=True)
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = second / second.norm(dim=-1, keepdim=True)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=-2)


def _to_6d(matrix: Tensor) -> Tensor:
    return matrix[..., :2, :].flatten(-2)


def _from_quaternion(quaternion: Tensor) -> Tensor:
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _to_quaternion(matrix: Tensor) -> Tensor:
    """The matrix holds 4 q q^T linearly; its row with the largest diagonal entry is q times a number far from 0.

    No other way of reading q stays exact for every rotation: near pi, w vanishes, and near 0, x, y and z do.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    outer = torch.stack(
        (
            *(1 + xx - yy - zz, xy + yx, xz + zx, zy - yz),
            *(xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx),
            *(xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy),
            *(zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz),
        ),
        dim=-1,
    ).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = torch.take_along_dim(outer, best[..., None, None], dim=-2).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def _from_wxyz(quaternion: Tensor) -> Tensor:
    return _from_quaternion(quaternion.roll(-1, dims=-1))


def _to_wxyz(matrix: Tensor) -> Tensor:
    return _to_quaternion(matrix).roll(1, dims=-1)


def _from_axis_angle(vector: Tensor) -> Tensor:
    """By the unit quaternion: torch.sinc(u) = sin(pi u) / (pi u) carries sin(angle / 2) / angle smoothly through 0."""
    angle = vector.norm(dim=-1, keepdim=True)
    return _from_quaternion(torch.cat((vector * torch.sinc(angle / (2 * torch.pi)) / 2, (angle / 2).cos()), dim=-1))


def _to_axis_angle(matrix: Tensor) -> Tensor:
    quaternion = _to_quaternion(matrix)
    vector, w = quaternion[..., :3], quaternion[..., 3:]
    sine = vector.norm(dim=-1, keepdim=True)  # of half the angle
    tiny = sine < torch.finfo(matrix.dtype).eps  # angle / sine tends to 2; the inner where keeps its gradient finite
    return vector * torch.where(tiny, 2.0, 2 * torch.atan2(sine, w) / torch.where(tiny, 1.0, sine))


def _from_euler(angles: Tensor) -> Tensor:
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = (
        *(cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        *(sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        *(-sy, cy * sx, cy * cx),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _to_euler(matrix: Tensor) -> Tensor:
    """Read the turn about z, undo it, read the others from what is left.

    In that order an uncertain z near gimbal lock is made good by x, and the rotation as a whole stays exact.
    """
    top, middle, bottom = matrix.unbind(-2)
    locked = (top[..., 0].abs() + middle[..., 0].abs()) < 8 * torch.finfo(matrix.dtype).eps
    z = torch.atan2(torch.where(locked, 0.0, middle[..., 0]), torch.where(locked, 1.0, top[..., 0]))
    cos, sin = z.cos()[..., None], z.sin()[..., None]
    top, middle = cos * top + sin * middle, cos * middle - sin * top
    return torch.stack((torch.atan2(-middle[..., 2], middle[..., 1]), torch.atan2(-bottom[..., 0], top[..., 0]), z), -1)


_TO_MATRIX = {
    "matrix": _same,
    "6d": _from_6d,
    "quaternion": _from_quaternion,
    "quaternion_wxyz": _from_wxyz,
    "axis_angle": _from_axis_angle,
    "euler_xyz": _from_euler,
}
_FROM_MATRIX = {
    "matrix": _same,
    "6d": _to_6d,
    "quaternion": _to_quaternion,
    "quaternion_wxyz": _to_wxyz,
    "axis_angle": _to_axis_angle,
    "euler_xyz": _to_euler,
}
