"""Conversions between the forms of rotations that robots, datasets and networks use.

Axes: `...` any leading axes; a form fixes the last one (or two). Angles in rad.

Every conversion goes through the matrix. Its columns are the axes of the rotated frame, in coordinates of the base
frame. The conversions are differentiable tensor arithmetic that never reads values, so they run in a compiled or
captured sampling loop. Therefore an input that is no rotation (a zero quaternion, parallel 6-D rows) gives NaN instead
of an error. `ActionSpace.validate` finds the NaN, as do the safety checks of a robot.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = {
    # Columns are the axes of the rotated frame. Used as given, without orthonormalisation.
    "matrix": (3, 3),
    # The first two ROWS of the matrix, row-major (Zhou et al. 2019, as in pytorch3d).
    "6d": (6,),
    # x y z w, the order of scipy.
    "quaternion": (4,),
    # w x y z, the order of MuJoCo.
    "quaternion_wxyz": (4,),
    # The rotation vector: its direction is the axis, its length the angle.
    "axis_angle": (3,),
    # About the FIXED axes x, then y, then z: as_euler("xyz") of scipy, cartesian_position of DROID.
    "euler_xyz": (3,),
}


def to_matrix(rotation: Tensor, form: str) -> Tensor:
    """Convert rotations to matrices (... 3 3).

    Args:
        rotation: rotations (... *SHAPES[form]). Quaternions and 6-D rows are normalised. A zero quaternion or parallel
            6-D rows give NaN.
        form: a key of `SHAPES`.

    Raises:
        ValueError: the form is unknown, or the shape does not fit it.

    Examples:
        >>> import torch
        >>> to_matrix(torch.tensor([0.0, 0.0, 0.6, 0.8]), "quaternion")  # x y z w: 74 degrees about z
        tensor([[ 0.2800, -0.9600,  0.0000],
                [ 0.9600,  0.2800,  0.0000],
                [ 0.0000,  0.0000,  1.0000]])
    """
    _check(rotation, form)
    return _TO_MATRIX[form](rotation)


def from_matrix(matrix: Tensor, form: str) -> Tensor:
    """Convert matrices (... 3 3) to rotations (... *SHAPES[form]).

    The result is canonical: a quaternion has w >= 0, and a rotation vector a length of at most pi. In gimbal lock,
    where the second Euler angle is ±pi/2, the third is 0.

    Args:
        matrix: rotation matrices.
        form: a key of `SHAPES`.

    Raises:
        ValueError: the form is unknown, or the shape is not (... 3 3).
    """
    _check(matrix, "matrix")
    _check_form(form)
    return _FROM_MATRIX[form](matrix)


def convert(rotation: Tensor, source: str, target: str) -> Tensor:
    """Convert rotations from one form to another; if both are the same, return them unchanged.

    Args:
        rotation: rotations (... *SHAPES[source]).
        source: the form of `rotation`, a key of `SHAPES`.
        target: the form of the result (... *SHAPES[target]).

    Raises:
        ValueError: a form is unknown, or the shape does not fit `source`.

    Examples:
        >>> import torch
        >>> convert(torch.tensor([0.0, 0.0, 1.0, 0.0]), "quaternion", "6d")  # x y z w: 180 degrees about z
        tensor([-1.,  0.,  0.,  0., -1.,  0.])
    """
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
            f"rotation has shape {tuple(rotation.shape)}, but form {form!r} needs {width} at its end. All forms: "
            f"{', '.join(f'{name!r} {shape}' for name, shape in SHAPES.items())}"
        )


def _same(matrix: Tensor) -> Tensor:
    return matrix


def _from_6d(rows: Tensor) -> Tensor:
    """Orthonormalise the two rows by Gram-Schmidt, starting with the first, and add the third by a cross product."""
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
    """Read q from 4 q q^T, whose entries are linear in the matrix.

    Each row is a multiple of q. The row with the largest diagonal entry is the most accurate one: w vanishes near a
    rotation by pi, and x, y and z near the identity.
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
    """Convert through the unit quaternion; `torch.sinc` computes sin(angle / 2) / angle smoothly through 0."""
    angle = vector.norm(dim=-1, keepdim=True)
    return _from_quaternion(torch.cat((vector * torch.sinc(angle / (2 * torch.pi)) / 2, (angle / 2).cos()), dim=-1))


def _to_axis_angle(matrix: Tensor) -> Tensor:
    quaternion = _to_quaternion(matrix)
    vector, w = quaternion[..., :3], quaternion[..., 3:]
    sine = vector.norm(dim=-1, keepdim=True)  # sin(angle / 2)
    tiny = sine < torch.finfo(matrix.dtype).eps  # Here angle / sine tends to 2. The inner where keeps gradients finite.
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
    """Read the rotation about z, undo it, and read x and y from the rest.

    In this order x corrects an inaccurate z near gimbal lock, and the rotation as a whole stays exact.
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
