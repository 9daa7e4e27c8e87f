"""Checks of episodes before training. They find wrong units, component orders, frames and missing values.

Axes: `t` time steps of one episode, `j` joints, `k` time steps that are compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from action_heads.data.bounded_reads import REPAIR, BadData, BadEpisode, no_steps
from action_heads.data.convert import matrix_of
from action_heads.data.motion import Raw
from action_heads.data.schema import JOINT_UNITS, POSITION_UNITS, ROTATION_WIDTHS, Schema
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.panda import FR3_MAX, FR3_MIN, FRAMES, PANDA

BEYOND = 0.05  # rad or m by which a joint may exceed its limit, since calibrations are inexact
FAR = 5.0  # m; farther than any arm on a table reaches
UNIT = 1e-2  # tolerance of a quaternion's norm around 1
LOOKED_AT = 32  # rows of an episode whose pose is compared with the joints
NORMALISED = 100.0  # LeRobot's value at the end of a joint's calibrated range, unless it records degrees
FR3 = replace(PANDA, name="fr3", lower=FR3_MIN, upper=FR3_MAX)  # for this check only; the FR3's speeds differ too
OFF, TURNED = 0.01, 0.05  # m, rad; tolerance between a pose and the forward kinematics of its joints


def check(raw: Raw, schema: Schema, arm: Arm | None, base: np.ndarray | None, source: str) -> None:
    """Check that the values of an episode are possible under its schema.

    Args:
        raw: the episode.
        schema: the column map.
        arm: the arm that the joints belong to; None if it is unknown.
        base: position (3,) of the arm's base in the world frame, in m; None if it is unknown or not needed.
        source: the recording, for messages.

    Raises:
        BadEpisode: this episode has impossible values. `?bad=skip` leaves it out.
        BadData: the column map does not fit the recording.
    """
    where = f"{source}, episode {raw.name}"
    if not len(raw):
        raise no_steps(where)
    for part in ("joints", "position", "rotation"):
        if (values := getattr(raw, part)) is not None:
            _check_finite(values, f"{where}, {part}")
    if raw.joints is not None:
        _check_joints(raw.joints, schema, arm, where)
    if raw.position is not None and raw.rotation is not None:
        _check_position(raw.position, schema, where)
        _check_rotation(raw.rotation, schema, where)
    if raw.gripper is not None:
        _check_gripper(raw.gripper, schema, where)
    if raw.joints is not None and raw.position is not None and raw.rotation is not None and arm is not None:
        _check_pose(raw, schema, arm, base, where)


def _check_finite(values: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(-1))
    if len(bad):
        raise BadEpisode(
            f"{where}: {len(bad)} of {len(values)} rows contain NaN or infinite values, the first is row {bad[0]}. "
            f"{REPAIR}"
        )


def _check_joints(joints: np.ndarray, schema: Schema, arm: Arm | None, where: str) -> None:
    unit = JOINT_UNITS[schema.joints_unit]
    _check_normalised(joints, schema, where)
    if arm is None:
        if np.abs(joints * unit).max() > 4 * np.pi:
            reach = f"{np.abs(joints).max():.4g} {schema.joints_unit}"
            raise BadData(f"{where}: joints reach {reach}, more than two turns. {_degrees(joints, where)}")
        return
    if joints.shape[1] != len(arm):
        raise BadData(
            f"{where}: the recording has {joints.shape[1]} joints, but the arm {arm.name} has {len(arm)}. "
            "Name the right arm with ?arm=ARM.urdf, or map only the columns of the arm's joints."
        )
    radians = torch.from_numpy(joints * unit).double()
    inside = arm.within_limits(radians, BEYOND).numpy()
    if inside.all() or (schema.fr3 and arm is PANDA and bool(FR3.within_limits(radians, BEYOND).all())):
        return
    row, joint = np.argwhere(~inside)[0]
    bounds = f"[{arm.lower[joint]:.4g}, {arm.upper[joint]:.4g}]"
    other = ", and the episode does not fit the FR3's limits either" if schema.fr3 and arm is PANDA else ""
    kind = "rad" if arm is PANDA else "rad, or m for a sliding joint"
    problem = (
        f"{where}, row {row}: joint {joint} is {joints[row, joint] * unit:.4g}, outside the limits {bounds} ({kind}) "
        f"of {arm.name}{other}"
    )
    if schema.joints_unit == "rad" and np.abs(joints).max() > 4:
        degrees = torch.from_numpy(np.deg2rad(joints)).double()
        if arm.within_limits(degrees, BEYOND).float().mean() > 0.99:
            raise BadData(f"{problem}. {_degrees(joints, where)}")
    raise BadEpisode(f"{problem}. Check that this is the right arm (?arm=...). {REPAIR}")


def _check_normalised(joints: np.ndarray, schema: Schema, where: str) -> None:
    """Raise if joints declared as degrees are LeRobot's normalised joints, which are clipped at -100 and 100."""
    largest = np.abs(joints).max()
    ends = np.abs(np.abs(joints) - NORMALISED) < 1e-3
    if schema.joints_unit == "deg" and largest < NORMALISED + 1e-3 and ends.any():
        row, joint = np.argwhere(ends)[0]
        raise BadData(
            f"{where}, row {row}: joint {joint} is {joints[row, joint]:.6g} and no joint exceeds 100. These are "
            f"LeRobot's normalised joints, not degrees. {_NORMALISED}"
        )


_NORMALISED = (
    "LeRobot records the joints of SO-100 and SO-101 arms from -100 to 100 over their calibrated range, unless the "
    "robot has use_degrees=true. Record again with use_degrees=true, or convert the joints to radians with range_min "
    "and range_max of the calibration."
)


def _map(keys: str, where: str) -> str:
    """Return the remedy of setting keys of the column map, which only LeRobot datasets have."""
    if where.startswith("lerobot:"):
        return f"Set {keys} in a column map (?columns=MAP.json)."
    return "Files of this format have no column map, so convert the values in the file."


def _degrees(joints: np.ndarray, where: str) -> str:
    """Return the remedy for joints that look like degrees."""
    remedy = _map('"joints_unit": "deg"', where)
    if np.abs(joints).max() < NORMALISED + 1e-3:  # The numbers alone cannot distinguish the two.
        return f"These look like degrees or like LeRobot's normalised joints. For degrees: {remedy} {_NORMALISED}"
    return f"These look like degrees. {remedy}"


def _check_position(position: np.ndarray, schema: Schema, where: str) -> None:
    distance = np.linalg.norm(position, axis=-1) * POSITION_UNITS[schema.position_unit]
    if distance.max() > FAR:
        row = int((distance > FAR).argmax())
        problem = f"{where}, row {row}: the hand is {distance[row]:.4g} m from the origin, more than {FAR:g} m"
        if schema.position_unit == "m" and np.median(distance) > FAR:
            remedy = _map('"position_unit": "mm"', where)
            raise BadData(f"{problem}. These look like millimetres. {remedy}")
        raise BadEpisode(f"{problem}. {REPAIR}")


def _check_rotation(rotation: np.ndarray, schema: Schema, where: str) -> None:
    form = schema.rotation_form
    if form.startswith("quat"):
        error = np.abs(np.linalg.norm(rotation, axis=-1) - 1)
        what = "unit quaternion"
    elif form in ("matrix", "6d"):
        rows = rotation.reshape(len(rotation), -1, 3)
        error = np.abs(rows @ rows.transpose(0, 2, 1) - np.eye(rows.shape[1])).max((1, 2))
        what = "rotation matrix"
    elif form == "axis_angle":
        error = np.clip(np.linalg.norm(rotation, axis=-1) - 2 * np.pi, 0, None)
        what = "rotation vector in rad, of at most one full turn"
    else:
        return
    bad = error > UNIT
    if not bad.any():
        return
    problem = f"{where}, row {bad.argmax()}: {rotation[bad.argmax()].round(4).tolist()} is not a {what}"
    if bad.mean() > 0.5:
        raise BadData(f"{problem}, and neither are most rows. Check the columns, and that rotation_form is {form!r}.")
    raise BadEpisode(f"{problem}. {REPAIR}")


def _check_gripper(gripper: np.ndarray, schema: Schema, where: str) -> None:
    share = (gripper - schema.gripper_open) / (schema.gripper_closed - schema.gripper_open)
    bad = (share < -0.5) | (share > 1.5)  # NaN is neither; it means that the gripper was not recorded.
    if bad.any():
        remedy = _map('"gripper_open" and "gripper_closed"', where)
        raise BadData(
            f"{where}, row {bad.argmax()}: the gripper is {gripper[bad.argmax()]:.4g}, but {schema.gripper_open:g} is "
            f"declared as open and {schema.gripper_closed:g} as closed. {remedy}"
        )


def _check_pose(raw: Raw, schema: Schema, arm: Arm, base: np.ndarray | None, where: str) -> None:
    """Compare recorded poses with the forward kinematics of the recorded joints.

    The error names the rotation form, frame and unit that would fit. The Panda's frames are known. For other arms the
    recorded frame is unknown (the flange or some tool), so any frame that is fixed to the tip is accepted.
    """
    known = arm is PANDA
    frames = tuple(FRAMES) if known else (schema.frame,)
    assert raw.joints is not None
    assert raw.position is not None
    assert raw.rotation is not None
    rows = np.unique(np.linspace(0, len(raw) - 1, LOOKED_AT).astype(int))
    joints = torch.from_numpy(raw.joints[rows] * JOINT_UNITS[schema.joints_unit]).double()
    position, rotation = (torch.from_numpy(part[rows]).double() for part in (raw.position, raw.rotation))
    anywhere = schema.world and base is None  # The base's position is unknown, so only the motion is compared.
    origin = torch.zeros(3).double() if base is None else torch.from_numpy(base).double()

    def misfit(form: str, frame: str, unit: str) -> tuple[float, float]:
        """Return the median distance in m and angle in rad."""
        ours, matrix = arm.forward(joints, frame if known else arm.frame)
        away, turn = position * POSITION_UNITS[unit] - origin - ours, matrix_of(rotation, form)
        if not known:
            away, matrix = away - _lever(away, matrix, anywhere), matrix @ _mean(matrix.mT @ turn)
        if anywhere:
            away = away - away.median(0).values
        return float(away.norm(dim=-1).median()), float(_angle(turn, matrix).median())

    declared = (schema.rotation_form, schema.frame, schema.position_unit)
    off, turned = misfit(*declared)
    if off < OFF and turned < TURNED:
        return
    forms = [form for form, width in ROTATION_WIDTHS.items() if width == rotation.shape[1]]
    candidates = [(form, frame, unit) for form in forms for frame in frames for unit in POSITION_UNITS]
    best = min(candidates, key=lambda c: sum(x / y for x, y in zip(misfit(*c), (OFF, TURNED), strict=True)))
    taken = f"the {declared[1]}" if known else f"any frame fixed to {arm.frame}"
    problem = (
        f"{where}: the recorded poses differ from the forward kinematics of the joints by {1000 * off:.3g} mm and "
        f"{np.rad2deg(turned):.3g} degrees (median) when they are read as {declared[0]} of {taken} in {declared[2]}"
    )
    if misfit(*best)[0] < OFF and misfit(*best)[1] < TURNED:
        keys = zip(("rotation_form", "frame", "position_unit"), declared, best, strict=True)
        fits = ", ".join(f'"{key}": "{found}"' for key, said, found in keys if said != found)
        raise BadData(f"{problem}. They agree with {fits}. {_map(fits, where)}")
    remedy = "" if known else " If the pose is of another body, leave position and rotation out of the column map."
    raise BadData(
        f"{problem}. No other rotation form, frame or unit fits. Check that these are the joints of {arm.name}, and "
        f"that the poses are in its base frame.{remedy}"
    )


def _lever(away: Tensor, matrix: Tensor, anywhere: bool) -> Tensor:
    """Return the part (k, 3) of the offsets from tip to recorded point (k, 3) that rotates with the tip (k, 3, 3).

    This is a median, which is robust to a few wrong rows. If the base may stand anywhere, least squares separate the
    constant offset in the tip's frame from that in the world frame.
    """
    if not anywhere:
        return matrix @ (matrix.mT @ away[..., None])[..., 0].median(0).values
    both = torch.cat((matrix, torch.eye(3).to(matrix).expand_as(matrix)), dim=-1).flatten(0, 1)
    return matrix @ torch.linalg.lstsq(both, away.flatten()[:, None], driver="gelsd").solution[:3, 0]


def _mean(rotations: Tensor) -> Tensor:
    """Return the mean (3, 3) of rotations (k, 3, 3): the mean matrix, projected onto the rotations."""
    u, _, v = torch.linalg.svd(rotations.mean(0))
    return u @ torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ v).sign()]).to(u)) @ v


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles (k,) between rotations (k, 3, 3), in rad."""
    return (((a.mT @ b).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos()
