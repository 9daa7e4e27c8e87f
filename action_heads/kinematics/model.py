"""`read_arm`: a serial arm from its URDF or MJCF file, with batched forward kinematics in torch.

Axes: `...` any leading axes, `j` joints of the arm, 3 metres along x y z. Units: rad, m, s.

This module supplies values that files leave out: a joint without a speed limit (MJCF has none) gets SPEED, and
synthetic motion of a continuous joint stays within CONTINUOUS. tips.py decides where an arm ends and which joints are
fingers.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from action_heads._util.paths import path_of
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.chain import Chain, Joint
from action_heads.kinematics.markup import Document
from action_heads.kinematics.mjcf import read_mjcf
from action_heads.kinematics.skeleton import Mover, Skeleton, turn
from action_heads.kinematics.tips import Frame, find_tip
from action_heads.kinematics.urdf import read_urdf

SPEED, SLIDING_SPEED = 2.0, 0.5  # rad/s (typical of a medium-sized arm), m/s
FASTEST = 20.0  # rad/s; a higher limit is a placeholder
CONTINUOUS = math.pi  # rad on either side of zero
ENDLESS = 1e6  # a larger limit is a placeholder for an unlimited joint
FURTHEST, LONGEST = 40.0, 20.0  # rad, m; a larger limit was written in degrees or millimetres
SHORTEST = 1e-5  # rad, m; a joint with a smaller range does not move
NARROW = 0.5  # rad; if all ranges of an MJCF arm are smaller, radians were probably read as degrees
OUTSIDE = 0.01  # rad, m; a keyframe may exceed the limits by this much, because of rounding
MOST = 64  # joints of an arm
LIMB = "a serial arm has only hinge and sliding joints, and a fixed base"


@dataclass(frozen=True)
class Drive:
    """The value of a joint of the chain, as a function of a joint of the file: `scale * value + shift`."""

    source: str
    scale: float
    shift: float


def read_arm(path: str | Path, tip: str | None = None) -> Arm:
    """Read the arm of a URDF or MJCF file.

    Poses are those of the tip, in the frame of the root link. In MJCF this is the body that is fixed to the world.

    Args:
        path: a .urdf file, or an MJCF .xml file.
        tip: link, body, site or joint at which the arm ends; by default the only end that is not a finger.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, is not a serial arm, or its end is ambiguous. The message names the file
            and the element.

    Examples:
        >>> from action_heads.data import find_arm  # the same for a file, and `panda`
        >>> arm = find_arm("tests/kinematics/data/six.urdf")
        >>> arm
        Arm('six-8c25e9cc', 6 joints, poses of 'hand')
    """
    path = path_of(path)
    if path.suffix not in (".urdf", ".xml"):
        raise ValueError(f"{path} must be a .urdf file or an MJCF .xml file, but ends in {path.suffix!r}.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist. Give the path of a URDF or MJCF file, or `panda`.")
    document = Document(path, "URDF" if path.suffix == ".urdf" else "MJCF")
    skeleton = read_urdf(document) if path.suffix == ".urdf" else read_mjcf(document)
    end = find_tip(skeleton, tip, path)
    movers = skeleton.movers(end[0])
    if not movers:
        raise ValueError(f"{path}: no joint moves {end[1]!r}. Choose a tip further along the arm.")
    if len(movers) > MOST:
        raise ValueError(
            f"{path}: {len(movers)} joints move {end[1]!r}, at most {MOST} are possible. Choose another tip."
        )
    for mover in movers:
        if mover.kind not in ("turns", "slides"):
            raise mover.element.error(f"joint {mover.name!r} is of the type {mover.kind!r}, but {LIMB}.")
    _check_loops(skeleton, end)
    drives = {mover.name: _drive(skeleton, mover) for mover in movers}
    joints, last = _joints(skeleton, end, drives)
    free = _free(movers, drives)
    lower, upper, velocity, continuous = _limits(skeleton, free, drives, path)
    return Arm(
        name=f"{path.stem}-{document.digest.hexdigest()[:8]}",
        lower=lower,
        upper=upper,
        velocity=velocity,
        home=_home(skeleton, free, lower, upper, continuous),
        frame=end[1],
        forward=Chain(joints, last, end[1]),
        continuous=continuous,
        file=path,
    )


def _check_loops(skeleton: Skeleton, end: Frame) -> None:
    """Raise a ValueError if a loop constrains joints of the arm."""
    chain = set(skeleton.chain(end[0]))
    for loop in skeleton.loops:
        sides = [set(skeleton.chain(link)) if link is not None else set() for link in (loop.first, loop.second)]
        between = sides[0] ^ sides[1]
        loose = any(
            skeleton.links[i].aside or m.kind == "free joint" for i in between for m in skeleton.links[i].movers
        )
        loose = loose or any(skeleton.links[link].aside for link in between)
        held = [mover for link in between & chain for mover in skeleton.links[link].movers]
        if held and not loose:
            raise loop.element.error(
                f"it closes a loop with joint {held[0].name!r} of the arm, so the arm is not a serial chain. Choose a "
                "tip before that joint, or remove this element from the file."
            )


def _drive(skeleton: Skeleton, mover: Mover) -> Drive | float:
    """Return the joint of the file that drives a joint (itself if it is not coupled), or the value of a held joint."""
    source, scale, shift, passed = mover.name, 1.0, 0.0, set[str]()
    while coupling := skeleton.couplings.get(source):
        if coupling.trouble:
            raise coupling.element.error(
                f"joint {source!r} of the arm is not free: {coupling.trouble}. Choose a tip before it, or remove this "
                "element from the file."
            )
        passed.add(source)
        shift += scale * coupling.shift
        scale *= coupling.scale
        if coupling.other is None:
            return shift
        source = coupling.other
        if source in passed:
            raise coupling.element.error(f"joint {source!r} follows itself. Remove one of the couplings from the file.")
    return Drive(source, scale, shift)


def _free(movers: list[Mover], drives: dict[str, Drive | float]) -> list[Mover]:
    """Return the joints of the arm: of each group of coupled joints, the first one on the chain."""
    free, sources = [], set[str]()
    for mover in movers:
        drive = drives[mover.name]
        if isinstance(drive, Drive) and drive.source not in sources:
            sources.add(drive.source)
            free.append(mover)
    if not free:
        raise movers[0].element.error("couplings hold all joints up to the tip. Choose a tip further along the arm.")
    return free


def _joints(skeleton: Skeleton, end: Frame, drives: dict[str, Drive | float]) -> tuple[list[Joint], Joint]:
    """Return the joints of the chain, with their axes rotated onto z, and the transform from the last to the tip."""
    joints: list[Joint] = []
    numbers: dict[str, tuple[int, Drive]] = {}  # For each driving joint: the index of the first one it drives, and how.
    offset, axes = np.zeros(3), np.eye(3)
    for number in skeleton.chain(end[0]):
        link = skeleton.links[number]
        if link.parent is not None:  # Poses are in the frame of the root link.
            offset, axes = offset + axes @ link.offset, axes @ link.axes
        for mover in link.movers:
            offset = offset + axes @ mover.anchor
            drive, turns = drives[mover.name], mover.kind == "turns"
            still = drive - mover.reference if isinstance(drive, float) else -mover.reference
            if turns:
                axes = axes @ turn(mover.axis, still)
            else:
                offset = offset + axes @ mover.axis * still
            if isinstance(drive, Drive):
                follows = _follows(numbers, drive)
                onto_z = _onto_z(mover.axis)
                joints.append(Joint(_clean(offset), _clean(axes @ onto_z), turns, follows))
                offset, axes = np.zeros(3), onto_z.T
            offset = offset - axes @ mover.anchor
    _, _, tip, tip_axes = end
    return joints, Joint(_clean(offset + axes @ tip), _clean(axes @ tip_axes), True)


def _follows(numbers: dict[str, tuple[int, Drive]], drive: Drive) -> tuple[int, float, float] | None:
    """Return the rule by which a joint follows an earlier one of the arm, or None."""
    if drive.source not in numbers:
        numbers[drive.source] = (len(numbers), drive)
        return None
    number, first = numbers[drive.source]
    return number, drive.scale / first.scale, drive.shift - drive.scale / first.scale * first.shift


def _onto_z(axis: np.ndarray) -> np.ndarray:
    """Return a rotation (3, 3) whose third column is the axis. For an axis along z it holds only zeros and ones."""
    if abs(axis[2]) > 1 - 1e-12:
        return np.diag([1.0, np.sign(axis[2]), np.sign(axis[2])])
    x = np.cross([0.0, 0.0, 1.0], axis)
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(axis, x), axis), axis=1)


def _clean(values: np.ndarray) -> np.ndarray:
    """Round values next to integers. The entries of 90-degree rotations become exactly 0 and 1, which cost nothing."""
    rounded = np.round(values)
    return np.where(np.abs(values - rounded) < 1e-9, rounded, values)


def _limits(
    skeleton: Skeleton, free: list[Mover], drives: dict[str, Drive | float], path: Path
) -> tuple[Tensor, Tensor, Tensor, tuple[bool, ...]]:
    """Return the lower and upper limits and speeds (j,) of the joints, and which of them are continuous."""
    every = [mover for link in skeleton.links for mover in link.movers if mover.kind in ("turns", "slides")]
    lower, upper, velocity, continuous = [], [], [], []
    for mover in free:
        low, high, speed = *_range(mover), _speed(mover)
        drive = drives[mover.name]
        for other in every if skeleton.couplings else ():
            followed = _drive_or_none(skeleton, other) if other is not mover else None
            if isinstance(drive, Drive) and followed is not None and followed.source == drive.source:
                scale = followed.scale / drive.scale  # other = scale * mover + shift
                ends = [(end - followed.shift + scale * drive.shift) / scale for end in _range(other)]
                low, high = max(low, min(ends)), min(high, max(ends))
                speed = min(speed, _speed(other) / abs(scale))
        if high - low < SHORTEST:
            raise mover.element.error(
                f"joint {mover.name!r} cannot move: the joints coupled to it restrict it to {low:.3g} to {high:.3g}. "
                "Correct the limits or the coupling."
            )
        endless = math.isinf(low) or math.isinf(high)
        if endless and mover.kind == "slides":
            raise mover.element.error(f"sliding joint {mover.name!r} has no limits. Add them to the file.")
        if endless:
            low, high = -CONTINUOUS, CONTINUOUS
        for values, value in zip((lower, upper, velocity, continuous), (low, high, speed, endless), strict=True):
            values.append(value)
    limited = zip(lower, upper, free, continuous, strict=True)
    ways = [high - low for low, high, mover, endless in limited if mover.kind == "turns" and not endless]
    if path.suffix == ".xml" and ways and max(ways) < NARROW:
        raise ValueError(
            f"{path}: no joint turns further than {max(ways):.2g} rad. MJCF angles are in degrees unless the file has "
            '<compiler angle="radian"/>. Add that line if its ranges are in radians.'
        )
    return torch.tensor(lower), torch.tensor(upper), torch.tensor(velocity), tuple(continuous)


def _drive_or_none(skeleton: Skeleton, mover: Mover) -> Drive | None:
    """Return `_drive` of a joint outside the arm, or None if it is held or its coupling is invalid."""
    try:
        drive = _drive(skeleton, mover)
    except ValueError:
        return None
    return drive if isinstance(drive, Drive) else None


def _range(mover: Mover) -> tuple[float, float]:
    """Return the position limits of a joint, infinite if it has none. Raise a ValueError if they are impossible."""
    if mover.limits is None or max(map(abs, mover.limits)) > ENDLESS:
        return -math.inf, math.inf
    low, high = mover.limits
    name, most = mover.name, FURTHEST if mover.kind == "turns" else LONGEST
    if abs(high - low) < SHORTEST:  # A URDF <limit> without lower and upper means 0 to 0.
        without_end = ", make it continuous if it has no limits" if mover.kind == "turns" else ""
        raise mover.element.error(
            f"joint {name!r} has {low:g} as both its lower and its upper limit. Make it fixed if it never "
            f"moves{without_end}, or give it limits."
        )
    if low > high:
        raise mover.element.error(
            f"joint {name!r} has a lower limit, {low:g}, above its upper limit, {high:g}. Swap them."
        )
    if max(-low, high) > most:
        units = "radians, not degrees" if mover.kind == "turns" else "metres, not millimetres"
        raise mover.element.error(f"joint {name!r} has the limits {low:g} and {high:g}; expected {units}.")
    return low, high


def _speed(mover: Mover) -> float:
    usual = SPEED if mover.kind == "turns" else SLIDING_SPEED
    return mover.speed if mover.speed is not None and mover.speed < FASTEST else usual


def _home(skeleton: Skeleton, free: list[Mover], lower: Tensor, upper: Tensor, continuous: tuple[bool, ...]) -> Tensor:
    """Return the posture (j,) of the keyframe "home", else of the first keyframe, else the middle of all ranges."""
    if not skeleton.keyframes:
        return (lower + upper) / 2
    named = [key for key in skeleton.keyframes if key[0] == "home"]
    _, element, posture = (named or skeleton.keyframes)[0]
    values = []
    for mover, low, high, endless in zip(free, lower.tolist(), upper.tolist(), continuous, strict=True):
        value = math.remainder(posture[mover.name], 2 * math.pi) if endless else posture[mover.name]
        if not low - OUTSIDE <= value <= high + OUTSIDE:
            raise element.error(
                f"it puts joint {mover.name!r} at {value:.4g}, outside its limits, {low:.4g} to {high:.4g}. Correct "
                "the keyframe or the limits."
            )
        values.append(value)
    return torch.tensor(values).clamp(lower, upper)
