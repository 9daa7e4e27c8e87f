"""Column maps (schemas): the meaning, units and frames of a recording's columns.

Users write their own map as a small JSON file; the built-in ones are in `known_schemas`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from action_heads._util.limits import fits, types_of
from action_heads._util.paths import path_of
from action_heads.actions.rotations import SHAPES
from action_heads.data.bounded_reads import BadData, read_object, short
from action_heads.kinematics.panda import FRAMES

ROTATION_WIDTHS = {form: math.prod(shape) for form, shape in SHAPES.items()}
EARLIER = {"quat_xyzw": "quaternion", "quat_wxyz": "quaternion_wxyz"}  # names of earlier column maps
JOINT_UNITS = {"rad": 1.0, "deg": 0.017453292519943295}
POSITION_UNITS = {"m": 1.0, "mm": 1e-3}
KINDS: dict[Any, str] = {str: "text", str | None: "text or null", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Column:
    """A column or a part of it, such as `observation.state[0:7]`, `actions[-1:]` or `observation.state[7]`."""

    name: str
    part: slice

    @classmethod
    def parse(cls, text: str) -> Column:
        match = re.fullmatch(r"([^\[\]]+)(?:\[(-?\d{1,9})?(?:(:)(-?\d{1,9})?)?\])?", text)
        if match is None or text.endswith("[]"):
            raise ValueError(
                f"{short(text)} is not a column. Write a name, or a part of a column, as in observation.state[0:7] or "
                "actions[-1]."
            )
        name, start, colon, stop = match.groups()
        first = int(start) if start else None
        if start and not colon:
            assert first is not None
            return cls(name, slice(first, first + 1 if first != -1 else None))
        return cls(name, slice(first, int(stop) if stop else None))

    def width(self, full: int) -> int:
        """Return the number of values that this part has in a column of a width; 0 if the column is too narrow."""
        edges = [edge for edge in (self.part.start, self.part.stop) if edge is not None]
        return 0 if any(abs(edge) > full for edge in edges) else len(range(full)[self.part])


@dataclass(frozen=True)
class Schema:
    """A column map: the columns of the motion, and their units and frames.

    A column is given as a name, or as a part of a column such as `observation.state[0:7]`; None if there is none.

    Attributes:
        name: name of the map, for messages.
        joints: column of the joint positions.
        position: column of the hand's position.
        rotation: column of the hand's rotation.
        gripper: column of the gripper, one number.
        joints_unit: rad or deg.
        position_unit: m or mm.
        rotation_form: quaternion (x y z w), quaternion_wxyz, euler_xyz (about fixed axes), axis_angle, matrix (row by
            row) or 6d (first two rows).
        gripper_open: the gripper's value when open.
        gripper_closed: the gripper's value when closed. The boundary is halfway.
        frame: body of the Panda whose pose is recorded: flange, hand, tcp, grip_site or robosuite_eef.
        world: whether poses are in a world frame instead of the robot's base frame.
        arm: panda, the path of a URDF or MJCF file, or None if the arm is unknown; then poses must be recorded.
        fr3: whether some arms are Franka's FR3, as in DROID. Its links are the Panda's, but its joint limits differ.

    Raises:
        ValueError: a value has another type or is none of the choices, or the columns do not describe a motion.

    Examples:
        >>> from action_heads.data import Schema
        >>> schema = Schema(position="state[0:3]", rotation="state[3:7]", gripper="action[6]", frame="flange")
        >>> schema.lacks({"state": 7, "action": 6})
        ['gripper (action[6], 0 of 6 values where 1 are needed)']
    """

    name: str = "columns"
    joints: str | None = None
    position: str | None = None
    rotation: str | None = None
    gripper: str | None = None
    joints_unit: str = "rad"
    position_unit: str = "m"
    rotation_form: str = "quaternion"
    gripper_open: float = 0.0
    gripper_closed: float = 1.0
    frame: str = "tcp"
    world: bool = False
    arm: str | None = "panda"
    fr3: bool = False

    def __post_init__(self) -> None:
        for name, kind in types_of(Schema).items():  # A map may come from a file.
            if not fits(value := getattr(self, name), kind):
                raise self._wrong(f"{name} must be {KINDS[kind]}, but is {short(value)}")
        self._check_columns()
        object.__setattr__(self, "rotation_form", EARLIER.get(self.rotation_form, self.rotation_form))
        for key, known in (
            ("joints_unit", JOINT_UNITS),
            ("position_unit", POSITION_UNITS),
            ("rotation_form", ROTATION_WIDTHS),
        ):
            if getattr(self, key) not in known:
                raise self._wrong(f"{key} is {getattr(self, key)!r}; choose from {', '.join(known)}")
        if self.arm == "panda" and self.frame not in FRAMES:
            raise self._wrong(f"unknown frame {self.frame!r}; choose from {', '.join(map(repr, FRAMES))}")
        if (self.position is None) != (self.rotation is None):
            raise self._wrong("a pose needs both position and rotation")
        if self.position is None and (self.joints is None or self.arm is None):
            raise self._wrong("name the joints of a known arm, or position and rotation, or both")
        if self.gripper_open == self.gripper_closed:
            raise self._wrong(f"gripper_open and gripper_closed are both {self.gripper_open:g}; they must differ")

    def _wrong(self, problem: str) -> ValueError:
        return ValueError(f"column map {self.name}: {problem}.")

    def _check_columns(self) -> None:
        if self.fr3 and self.arm != "panda":
            raise self._wrong(f"fr3 widens the Panda's limits, but arm is {self.arm!r}")
        for part in ("joints", "position", "rotation", "gripper"):
            if (text := getattr(self, part)) is not None:
                try:
                    Column.parse(text)
                except ValueError as error:
                    raise ValueError(f"column map {self.name}: {part}: {error}") from error

    def columns(self) -> dict[str, Column]:
        """Return the columns that the map names, by joints, position, rotation and gripper."""
        parts = {key: getattr(self, key) for key in ("joints", "position", "rotation", "gripper")}
        return {key: Column.parse(value) for key, value in parts.items() if value is not None}

    def lacks(self, widths: Mapping[str, int]) -> list[str]:
        """Return the columns that are missing or too narrow, given the widths of those that exist."""
        expected = {"position": 3, "rotation": ROTATION_WIDTHS[self.rotation_form], "gripper": 1}
        problems = []
        for part, column in self.columns().items():
            if column.name not in widths:
                problems.append(f"{part} ({column.name})")
                continue
            found, need = column.width(widths[column.name]), expected.get(part)
            if not found or (need is not None and found != need):
                problems.append(
                    f"{part} ({getattr(self, part)}, {found} of {widths[column.name]} values"
                    + (f" where {need} are needed)" if need else ")")
                )
        return problems

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, path: str | Path) -> Schema:
        """Read a column map from a JSON file. A relative path of its arm begins at the folder of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not JSON, or is not a valid map.
        """
        path = path_of(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist. Give the JSON file of a column map.")
        data = read_object(path, "column map")
        known = {field.name for field in fields(cls)}
        if set(data) - known:
            unknown = ", ".join(sorted(set(data) - known))
            raise ValueError(f"{path}: unknown keys {unknown}; a column map has {', '.join(sorted(known))}.")
        try:
            schema = cls(**{"name": path.stem, **data})
        except ValueError as error:
            raise BadData(f"{path}: {error}") from error
        return schema if schema.arm in (None, "panda") else replace(schema, arm=str(path_of(schema.arm, path)))


def listed(widths: Mapping[str, int]) -> str:
    """Return the columns and their widths as text, for messages."""
    return ", ".join(f"{column} ({width})" for column, width in widths.items())


def check(schema: Schema, widths: Mapping[str, int], source: str) -> Schema:
    """Return the schema; raise a `BadData` if the recording lacks a column that it names."""
    if problems := schema.lacks(widths):
        raise BadData(
            f"{source} lacks columns of the column map {schema.name}: {', '.join(problems)}. It has (with widths) "
            f"{listed(widths)}. Name these in the map."
        )
    return schema
