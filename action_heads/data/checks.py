"""Recordings that are not what they are taken for, found before training: units, orders, frames, holes.

Axes: `t` steps of one episode, `j` joints, `k` steps of it looked at.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from action_heads.actions.rotations import SHAPES, to_matrix
from action_heads.data.bounded_reads import BadData, BadEpisode, no_steps
from action_heads.data.motion import Raw
from action_heads.data.schema import JOINT_UNITS, POSITION_UNITS, ROTATION_WIDTHS, ROTATIONS, Schema
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.panda import FR3_MAX, FR3_MIN, FRAMES, PANDA

BEYOND = 0.05  # rad or m beyond a joint's limit that a calibration may be off
FAR = 5.0  # m: no arm that stands on a table reaches so far
UNIT = 1e-2  # how far a quaternion's length may be from 1
LOOKED_AT = 32  # rows of an episode whose pose is compared with its joints
NORMALISED = 100.0  # what LeRobot writes for the end of a joint's calibrated range, unless told to write degrees
FR3 = replace(PANDA, name="fr3", lower=FR3_MIN, upper=FR3_MAX)  # for this check alone: it has other speeds too
OFF, TURNED = 0.01, 0.05  # m, rad: how far a pose may be from the forward kinematics of its joints


def check(raw: Raw, schema: Schema, arm: Arm | None, base: np.ndarray | None, source: str) -> None:
    """Raise unless an episode can be what its schema says. `base` (3,) m is where the arm stands in the world frame."""
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
            f"{where}: {len(bad)} of {len(values)} rows are NaN or infinite, the first is row {bad[0]}; "
            "mend the recording, or leave such episodes out with ?bad=skip"
        )


def _check_joints(joints: np.ndarray, schema: Schema, arm: Arm | None, where: str) -> None:
    unit = JOINT_UNITS[schema.joints_unit]
    _check_normalised(joints, schema, where)
    if arm is None:
        if np.abs(joints * unit).max() > 4 * np.pi:
            raise BadData(f"{where}: joints reach {np.abs(joints).max():.4g} rad; {_degrees(schema, joints)}")
        return
    if joints.shape[1] != len(arm):
        raise BadData(f"{where}: {joints.shape[1]} joints, but {arm} has {len(arm)}; give the columns of the arm alone")
    radians = torch.from_numpy(joints * unit).double()
    inside = arm.within_limits(radians, BEYOND).numpy()
    if inside.all() or (schema.fr3 and arm is PANDA and bool(FR3.within_limits(radians, BEYOND).all())):
        return
    row, joint = np.argwhere(~inside)[0]
    bounds = f"[{arm.lower[joint]:.4g}, {arm.upper[joint]:.4g}]"
    other = ", and the episode does not fit the FR3's limits either" if schema.fr3 and arm is PANDA else ""
    problem = (
        f"{where}, row {row}: joint {joint} is {joints[row, joint] * unit:.4g}, outside {bounds} of {arm.name}{other}"
    )
    if schema.joints_unit == "rad" and np.abs(joints).max() > 4:
        degrees = torch.from_numpy(np.deg2rad(joints)).double()
        if arm.within_limits(degrees, BEYOND).float().mean() > 0.99:
            raise BadData(f"{problem}; {_degrees(schema, joints)}")
    raise BadEpisode(f"{problem}; is this the right arm (?arm=...)? Such episodes are left out with ?bad=skip")


def _check_normalised(joints: np.ndarray, schema: Schema, where: str) -> None:
    """Refuse LeRobot's normalised joints, which are cut at -100 and 100, where degrees were declared."""
    largest = np.abs(joints).max()
    ends = np.abs(np.abs(joints) - NORMALISED) < 1e-3
    if schema.joints_unit == "deg" and largest < NORMALISED + 1e-3 and ends.any():
        row, joint = np.argwhere(ends)[0]
        raise BadData(
            f"{where}, row {row}: joint {joint} is {joints[row, joint]:.6g} and no joint goes beyond 100: these are "
            f"LeRobot's normalised joints, not degrees. {_NORMALISED}"
        )


_NORMALISED = (
    "SO-100 and SO-101 arms are recorded so, -100 to 100 over the range of each joint's calibration, unless the robot "
    "has use_degrees=true: record anew with it, or turn them into radians by the calibration's range_min and range_max"
)


def _degrees(schema: Schema, joints: np.ndarray) -> str:
    remedy = f'set "joints_unit": "deg" in a column map (now {schema.joints_unit!r})'
    if np.abs(joints).max() < NORMALISED + 1e-3:  # either is possible: nothing in the numbers tells
        return f"these look like degrees or like LeRobot's normalised joints. If degrees, {remedy}. {_NORMALISED}"
    return f"these look like degrees: {remedy}"


def _check_position(position: np.ndarray, schema: Schema, where: str) -> None:
    distance = np.linalg.norm(position, axis=-1) * POSITION_UNITS[schema.position_unit]
    if distance.max() > FAR:
        row = int((distance > FAR).argmax())
        problem = f"{where}, row {row}: the hand is {distance[row]:.4g} m away"
        if schema.position_unit == "m" and np.median(distance) > FAR:
            raise BadData(f'{problem}; these look like millimetres: set "position_unit": "mm" in a column map')
        raise BadEpisode(f"{problem}; mend the recording, or leave such episodes out with ?bad=skip")


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
        what = "rotation vector in rad, longer than a full turn"
    else:
        return
    bad = error > UNIT
    if not bad.any():
        return
    problem = f"{where}, row {bad.argmax()}: {rotation[bad.argmax()].round(4).tolist()} is no {what}"
    if bad.mean() > 0.5:
        raise BadData(f"{problem}, and neither are most rows; are these the right columns and is {form!r} their form?")
    raise BadEpisode(f"{problem}; mend the recording, or leave such episodes out with ?bad=skip")


def _check_gripper(gripper: np.ndarray, schema: Schema, where: str) -> None:
    share = (gripper - schema.gripper_open) / (schema.gripper_closed - schema.gripper_open)
    bad = (share < -0.5) | (share > 1.5)  # NaN is neither: not recorded
    if bad.any():
        raise BadData(
            f"{where}, row {bad.argmax()}: the gripper is {gripper[bad.argmax()]:.4g}, but {schema.gripper_open:g} is "
            f'said to be open and {schema.gripper_closed:g} closed; set "gripper_open" and "gripper_closed"'
        )


def _check_pose(raw: Raw, schema: Schema, arm: Arm, base: np.ndarray | None, where: str) -> None:
    """Compare recorded poses with the forward kinematics of the recorded joints; say what would have fitted.

    The Panda's frames are known. Of another arm nobody says what was recorded, its flange or some tool: any one frame
    that is fixed to its tip will do.
    """
    known = arm is PANDA
    frames = tuple(FRAMES) if known else (schema.frame,)
    assert raw.joints is not None
    assert raw.position is not None
    assert raw.rotation is not None
    rows = np.unique(np.linspace(0, len(raw) - 1, LOOKED_AT).astype(int))
    joints = torch.from_numpy(raw.joints[rows] * JOINT_UNITS[schema.joints_unit]).double()
    position, rotation = (torch.from_numpy(part[rows]).double() for part in (raw.position, raw.rotation))
    anywhere = schema.world and base is None  # where the arm stands is not known: compare shapes of motion
    origin = torch.zeros(3).double() if base is None else torch.from_numpy(base).double()

    def misfit(form: str, frame: str, unit: str) -> tuple[float, float]:
        """Median distance in m and angle in rad."""
        ours, matrix = arm.forward(joints, frame if known else arm.frame)
        away, turn = position * POSITION_UNITS[unit] - origin - ours, _matrix(rotation, form)
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
        f"{where}: recorded poses are {1000 * off:.3g} mm and {np.rad2deg(turned):.3g} degrees (median) from the "
        f"forward kinematics of the joints, taken as {declared[0]} of {taken} in {declared[2]}"
    )
    if misfit(*best)[0] < OFF and misfit(*best)[1] < TURNED:
        keys = zip(("rotation_form", "frame", "position_unit"), declared, best, strict=True)
        fits = ", ".join(f'"{key}": "{found}"' for key, said, found in keys if said != found)
        raise BadData(f"{problem}. What fits is {fits}: write that in a column map")
    remedy = "" if known else "; if the pose is of something else, leave position and rotation out of the column map"
    raise BadData(
        f"{problem}. No order, frame or unit fits: are these the joints of {arm.name}, in the base frame?{remedy}"
    )


def _lever(away: Tensor, matrix: Tensor, anywhere: bool) -> Tensor:
    """Return the part (k, 3) of what lies between tip and recorded point (k, 3) that turns with the tip (k, 3, 3).

    A median, which a few wrong rows do not move; but where the base may stand anywhere, least squares tell the two
    constants apart.
    """
    if not anywhere:
        return matrix @ (matrix.mT @ away[..., None])[..., 0].median(0).values
    both = torch.cat((matrix, torch.eye(3).to(matrix).expand_as(matrix)), dim=-1).flatten(0, 1)
    return matrix @ torch.linalg.lstsq(both, away.flatten()[:, None], driver="gelsd").solution[:3, 0]


def _mean(rotations: Tensor) -> Tensor:
    """Rotations (k, 3, 3) -> the one (3, 3) in their middle: the mean matrix, made a rotation again."""
    u, _, v = torch.linalg.svd(rotations.mean(0))
    return u @ torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ v).sign()]).to(u)) @ v


def _matrix(rotation: Tensor, form: str) -> Tensor:
    name = ROTATIONS[form]
    return to_matrix(rotation.unflatten(-1, SHAPES[name]) if name == "matrix" else rotation, name)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the turn between rotations (k, 3, 3) -> (k,) rad."""
    return (((a.mT @ b).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos()
