"""Any serial arm from its URDF or MJCF, moved by batched forward kinematics in torch.

Axes: `...` any leading axes, `j` joints of the arm, 3 metres along x y z. Units: rad, m, s.

What a model leaves open is decided here: a joint without a speed limit (MJCF has none) gets SPEED, and one that turns
without end is drawn from CONTINUOUS. Where an arm ends, and what of it are fingers: tips.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.chain import Chain, Joint
from action_heads.kinematics.markup import Document, exists
from action_heads.kinematics.mjcf import read_mjcf
from action_heads.kinematics.skeleton import Mover, Skeleton, turn
from action_heads.kinematics.tips import Frame, find_tip
from action_heads.kinematics.urdf import read_urdf

SPEED, SLIDING_SPEED = 2.0, 0.5  # rad/s as of a middle-sized arm, m/s
FASTEST = 20.0  # rad/s: a limit above this is a placeholder
CONTINUOUS = math.pi  # rad on either side of zero
ENDLESS = 1e6  # a limit beyond this is a placeholder for none
FURTHEST, LONGEST = 40.0, 20.0  # rad, m: a limit beyond this was written in degrees or millimetres
SHORTEST = 1e-5  # rad, m: a joint with less of a way does not move
NARROW = 0.5  # rad: an MJCF arm whose every joint has less was written in radians and is read in degrees
OUTSIDE = 0.01  # rad, m: as far may a keyframe stand outside the limits, by rounding
MOST = 64  # joints of an arm
LIMB = "a serial arm is made of turning and sliding joints, and its base is fixed"


@dataclass(frozen=True)
class Drive:
    """A joint of the chain as a function of a joint of the file: `scale * value + shift`, within bounds if any."""

    source: str
    scale: float
    shift: float


def read_arm(path: str | Path, tip: str | None = None) -> Arm:
    """Return the arm of a .urdf or an MJCF .xml file, from its root to `tip`, a link; by default its last one.

    Poses are those of `tip`, seen from the model's root link; in MJCF, from the body that stands on the world. Raises
    ValueError, with file and element, for all that can't be read, or is no serial arm, or leaves a choice.
    """
    path = Path(path)
    if path.suffix not in (".urdf", ".xml"):
        raise ValueError(f"{path}: an arm is read from a .urdf or an MJCF .xml file, not from a {path.suffix!r} file")
    if not exists(path):
        raise FileNotFoundError(f"{path} does not exist: give the path of a URDF or MJCF file, or `panda`")
    document = Document(path, "URDF" if path.suffix == ".urdf" else "MJCF")
    skeleton = read_urdf(document) if path.suffix == ".urdf" else read_mjcf(document)
    end = find_tip(skeleton, tip, path)
    movers = skeleton.movers(end[0])
    if not movers:
        raise ValueError(f"{path}: no joint moves {end[1]!r}; choose a tip further along the arm")
    if len(movers) > MOST:
        raise ValueError(f"{path}: {len(movers)} joints move {end[1]!r}; an arm has at most {MOST}: choose another tip")
    for mover in movers:
        if mover.kind not in ("turns", "slides"):
            raise mover.element.error(f"joint {mover.name!r} is of the type {mover.kind!r}; {LIMB}")
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
    )


def _check_loops(skeleton: Skeleton, end: Frame) -> None:
    """Refuse an arm that is held to something else: its joints are not free."""
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
                f"it holds joint {held[0].name!r} of the arm in a loop, which is no serial chain: choose a tip before "
                f"it, or take the element out of the file"
            )


def _drive(skeleton: Skeleton, mover: Mover) -> Drive | float:
    """Return the joint of the file that a joint follows, itself if it follows none; a number if it stands still."""
    source, scale, shift, passed = mover.name, 1.0, 0.0, set[str]()
    while coupling := skeleton.couplings.get(source):
        if coupling.trouble:
            raise coupling.element.error(
                f"joint {source!r} of the arm is not free: {coupling.trouble}. Choose a tip before it, or take the "
                "element out of the file"
            )
        passed.add(source)
        shift += scale * coupling.shift
        scale *= coupling.scale
        if coupling.other is None:
            return shift
        source = coupling.other
        if source in passed:
            raise coupling.element.error(f"joint {source!r} follows itself: take one of the couplings out of the file")
    return Drive(source, scale, shift)


def _free(movers: list[Mover], drives: dict[str, Drive | float]) -> list[Mover]:
    """Return the joints of the arm: the first one on the chain of all that move together."""
    free, sources = [], set[str]()
    for mover in movers:
        drive = drives[mover.name]
        if isinstance(drive, Drive) and drive.source not in sources:
            sources.add(drive.source)
            free.append(mover)
    if not free:
        raise movers[0].element.error("all joints up to the tip are held by couplings; choose a tip further along")
    return free


def _joints(skeleton: Skeleton, end: Frame, drives: dict[str, Drive | float]) -> tuple[list[Joint], Joint]:
    """Each joint of the chain with its axis turned onto z, and what leads from the last one to the tip."""
    joints: list[Joint] = []
    numbers: dict[str, tuple[int, Drive]] = {}  # by what drives them: a joint of the arm, and how it is driven itself
    offset, axes = np.zeros(3), np.eye(3)
    for number in skeleton.chain(end[0]):
        link = skeleton.links[number]
        if link.parent is not None:  # poses are seen from the root link
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
    """Return a rotation (3, 3) whose third column is the axis; of zeros and ones for an axis of the frame."""
    if abs(axis[2]) > 1 - 1e-12:
        return np.diag([1.0, np.sign(axis[2]), np.sign(axis[2])])
    x = np.cross([0.0, 0.0, 1.0], axis)
    x /= np.linalg.norm(x)
    return np.stack((x, np.cross(axis, x), axis), axis=1)


def _clean(values: np.ndarray) -> np.ndarray:
    """Without the rounding of 90-degree turns: they are exactly 0 and 1, and cost nothing."""
    rounded = np.round(values)
    return np.where(np.abs(values - rounded) < 1e-9, rounded, values)


def _limits(
    skeleton: Skeleton, free: list[Mover], drives: dict[str, Drive | float], path: Path
) -> tuple[Tensor, Tensor, Tensor, tuple[bool, ...]]:
    """Position limits, speeds (j,) and which joints turn without end."""
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
                f"joint {mover.name!r} can't move: what is coupled to it leaves it from {low:.3g} to {high:.3g}. Mend "
                "the limits or the coupling"
            )
        endless = math.isinf(low) or math.isinf(high)
        if endless and mover.kind == "slides":
            raise mover.element.error(f"sliding joint {mover.name!r} has no limits; give it some in the file")
        if endless:
            low, high = -CONTINUOUS, CONTINUOUS
        for values, value in zip((lower, upper, velocity, continuous), (low, high, speed, endless), strict=True):
            values.append(value)
    limited = zip(lower, upper, free, continuous, strict=True)
    ways = [high - low for low, high, mover, endless in limited if mover.kind == "turns" and not endless]
    if path.suffix == ".xml" and ways and max(ways) < NARROW:
        raise ValueError(
            f"{path}: no joint turns further than {max(ways):.2g} rad. MJCF angles are degrees unless the file has "
            '<compiler angle="radian"/>: add that line if its ranges are radians'
        )
    return torch.tensor(lower), torch.tensor(upper), torch.tensor(velocity), tuple(continuous)


def _drive_or_none(skeleton: Skeleton, mover: Mover) -> Drive | None:
    """Return `_drive` of a joint outside the arm, or None where its coupling is invalid, which does not matter."""
    try:
        drive = _drive(skeleton, mover)
    except ValueError:
        return None
    return drive if isinstance(drive, Drive) else None


def _range(mover: Mover) -> tuple[float, float]:
    """Return the position limits of a joint, infinite where it has none, checked."""
    if mover.limits is None or max(map(abs, mover.limits)) > ENDLESS:
        return -math.inf, math.inf
    low, high = mover.limits
    name, most = mover.name, FURTHEST if mover.kind == "turns" else LONGEST
    if abs(high - low) < SHORTEST:  # a URDF limit without lower and upper is one from 0 to 0
        without_end = ", make it continuous if it turns without end" if mover.kind == "turns" else ""
        raise mover.element.error(
            f"joint {name!r} has {low:g} as both its lower and its upper limit: make it fixed if it never "
            f"moves{without_end}, or give it limits"
        )
    if low > high:
        raise mover.element.error(
            f"joint {name!r} has a lower limit, {low:g}, above its upper one, {high:g}: swap them"
        )
    if max(-low, high) > most:
        units = "radians, not degrees" if mover.kind == "turns" else "metres, not millimetres"
        raise mover.element.error(f"joint {name!r} has the limits {low:g} and {high:g}; expected {units}")
    return low, high


def _speed(mover: Mover) -> float:
    usual = SPEED if mover.kind == "turns" else SLIDING_SPEED
    return mover.speed if mover.speed is not None and mover.speed < FASTEST else usual


def _home(skeleton: Skeleton, free: list[Mover], lower: Tensor, upper: Tensor, continuous: tuple[bool, ...]) -> Tensor:
    """Return the keyframe named "home", else the first one, else the middle of every joint's range."""
    if not skeleton.keyframes:
        return (lower + upper) / 2
    named = [key for key in skeleton.keyframes if key[0] == "home"]
    _, element, posture = (named or skeleton.keyframes)[0]
    values = []
    for mover, low, high, endless in zip(free, lower.tolist(), upper.tolist(), continuous, strict=True):
        value = math.remainder(posture[mover.name], 2 * math.pi) if endless else posture[mover.name]
        if not low - OUTSIDE <= value <= high + OUTSIDE:
            raise element.error(
                f"it puts joint {mover.name!r} at {value:.4g}, outside its limits, {low:.4g} to {high:.4g}: mend one "
                "of them"
            )
        values.append(value)
    return torch.tensor(values).clamp(lower, upper)
