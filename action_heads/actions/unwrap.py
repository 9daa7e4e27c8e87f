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
STEPS = 8  # time steps that are written one by one after a guess that was right for fewer of them


def unwrapped(rotations: Tensor, form: str, dim: int, before: Tensor | None = None) -> Tensor:
    """Rewrite rotations (... h ... *form), with h at `dim`, so that each is written closest to the previous one.

    Each depends on the one before, but going through them one by one is slow. The result is guessed for all of them at
    once, then each is written closest to the guess before it. Up to the first one that the guess had wrong, this is the
    result; from there on the rest is guessed again.

    Args:
        rotations: decoded rotations.
        form: a key of `rotations.SHAPES`.
        dim: the axis h.
        before: the rotation decoded before the first, without the axis h. Without it, the first is left unchanged.
    """
    if form not in NEAREST or not rotations.shape[dim]:
        return rotations
    rest = rotations.movedim(dim, 0)
    first = rest[0] if before is None else nearest(rest[0], before, form)
    found, rest = [first[None]], rest[1:]
    if torch.compiler.is_compiling():  # a compiler cannot read which guesses were right
        return torch.cat([*found, *_one_by_one(rest, first, form)]).movedim(0, dim)
    while len(rest):
        with torch.no_grad():
            known = torch.cat([found[-1][-1:], rest])
            guess = nearest(rest, GUESSES[form](known), form)  # the guess rounds; this is exactly one of the writings
        right = nearest(rest, torch.cat([known[:1], guess[:-1]]), form)
        wrong = ((right != guess) & ~(right.isnan() & guess.isnan())).flatten(1).any(1)
        steps = 1 + int((~wrong[:-1]).cumprod(0).sum())  # a wrong guess is put right, but misleads the next step
        found.append(right[:steps])
        rest = rest[steps:]
        if steps < STEPS:  # as within gimbal lock, where each writing depends on the last bit of the one before
            found += _one_by_one(rest[:STEPS], found[-1][-1], form)
            rest = rest[STEPS:]
    return torch.cat(found).movedim(0, dim)


def _one_by_one(rotations: Tensor, before: Tensor, form: str) -> list[Tensor]:
    """Return rotations (h ... n), each (1 ... n) and written closest to the one before."""
    found = []
    for rotation in rotations:
        before = nearest(rotation, before, form)
        found.append(before[None])
    return found


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


def continued(rotation: Tensor, form: str, axes: int, before: Tensor | None) -> Tensor:
    """Continue decoded rotations of actions with `axes` axes: along h in chunks (... h a), and from `before`."""
    if axes > 2:
        return unwrapped(rotation, form, axes - 2, before)
    return rotation if before is None else nearest(rotation, before, form)


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


def _closest(angles: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Euler angles plus whole turns, those or the equivalent (x + pi, pi - y, z + pi), and where it is these.

    Both are written with the whole turns closest to `before`, and the second result is the closer one of them.
    """
    x, y, z = angles.unbind(-1)
    other = torch.stack((x + torch.pi, torch.pi - y, z + torch.pi), -1)
    near, far = (each + TURN * _turns(each, before) for each in (angles, other))
    further = (far - before).square().sum(-1, keepdim=True) < (near - before).square().sum(-1, keepdim=True)
    return near, torch.where(further, far, near), further


def _euler(angles: Tensor, before: Tensor) -> Tensor:
    """Return the angles or the equivalent (x + pi, pi - y, z + pi), plus whole turns, whichever are closest.

    In gimbal lock, where y is ±pi/2, x and z rotate about one axis. Only x - z (or x + z) is determined there.
    """
    x, y, z = angles.unbind(-1)
    near, free, _ = _closest(angles, before)
    locked = y.cos().abs() < 16 * torch.finfo(angles.dtype).eps
    up = y.sin().sign()
    last_x, _, last_z = before.unbind(-1)
    missing = (x - up * z) - (last_x - up * last_z)
    half = (missing - TURN * (missing / TURN).round()) / 2
    held = torch.stack((last_x + half, near[..., 1], last_z - up * half), -1)
    return torch.where(locked[..., None], held, free)


def _odd(turned: Tensor) -> Tensor:
    """Return whether (h ...) was true an odd number of times up to each time step."""
    return turned.cumsum(0) % 2 == 1


def _guess_signs(known: Tensor) -> Tensor:
    """Guess quaternions (h 4) that follow the first of `known` (1 + h 4), by the signs of consecutive products."""
    turned = (known[1:] * known[:-1]).sum(-1, keepdim=True) < 0
    return torch.where(_odd(turned), -known[1:], known[1:])


def _guess_vectors(known: Tensor) -> Tensor:
    """Guess rotation vectors (h 3) that follow the first of `known` (1 + h 3), as angles about one slow axis."""
    angle = known.norm(dim=-1, keepdim=True)
    axis = known / torch.where(angle > 0, angle, 1)
    opposite = (axis[1:] * axis[:-1]).sum(-1, keepdim=True) < 0
    sign = torch.cat([torch.ones_like(angle[:1]), torch.where(_odd(opposite), -1, 1)])
    along = sign * angle
    turns = _turns(along[1:], along[:-1]).cumsum(0)
    return known[1:] + TURN * turns * (sign * axis)[1:]


def _guess_euler(known: Tensor) -> Tensor:
    """Guess Euler angles (h 3) that follow the first of `known` (1 + h 3).

    Each writing of a rotation is x + m, s y + n, z + o of the others, with s = ±1. These changes keep all distances, so
    those from each rotation to the next, as given, can be applied one after the other.
    """
    next, before = known[1:], known[:-1]
    _, closest, further = _closest(next, before)
    one = torch.ones_like(next[..., :1])
    flips = torch.cat([one, torch.where(further, -one, one), one], dim=-1)
    shifts = closest - flips * next
    sign = torch.cat([torch.ones_like(known[:1]), flips]).cumprod(0)
    return sign[1:] * next + (sign[:-1] * shifts).cumsum(0)


# Forms that have several representations of one rotation.
NEAREST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quaternion": _sign,
    "quaternion_wxyz": _sign,
    "axis_angle": _vector,
    "euler_xyz": _euler,
}
GUESSES: dict[str, Callable[[Tensor], Tensor]] = {
    "quaternion": _guess_signs,
    "quaternion_wxyz": _guess_signs,
    "axis_angle": _guess_vectors,
    "euler_xyz": _guess_euler,
}
