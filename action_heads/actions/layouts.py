"""Layouts of a dataset's actions: one line declares the meaning of each column, and maps it to a head's actions.

Axes: ... any leading axes, d columns of the dataset, a action of the head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads.actions.column_names import guess_layout, listed
from action_heads.actions.layout_checks import (
    UNDECLARED,
    check_gripper,
    check_names,
    check_range,
    check_rotations,
)
from action_heads.actions.normalize import Normalizer
from action_heads.actions.rotations import SHAPES, from_matrix, to_matrix
from action_heads.actions.spaces import WIDTHS, ActionSpace
from action_heads.actions.unwrap import continued

LAYOUTS = {
    "libero": "delta: position*0.05 axis_angle*0.5 gripper",  # robosuite's OSC_POSE: one unit is 5 cm or 0.5 rad.
    "delta": "delta: position axis_angle gripper",
    "pose_euler": "position euler_xyz gripper",
    "pose_quaternion": "position quaternion gripper",
    "pose_6d": "position 6d gripper",
    "joints_6": "joint:6 gripper",
    "joints_7": "joint:7 gripper",
    "bimanual_joints": "joint:6 gripper joint:6 gripper",
    "bimanual_pose_6d": "position 6d gripper position 6d gripper",
}
FORMS = tuple(form for form in SHAPES if form != "matrix")
UNITS = r"(?:\*(?P<unit>\d*\.?\d+(?:e[+-]?\d+)?))?"
PART = re.compile(rf"(?P<name>position|gripper|{'|'.join(FORMS)}){UNITS}|joint:(?P<joints>[1-9]\d*)")
GRAMMAR = (
    "a layout is a list of parts in the order of the columns, such as 'position quaternion gripper', or "
    f"'delta: position*0.05 axis_angle*0.5 gripper': position, gripper, joint:N, or a rotation as {', '.join(FORMS)}; "
    "'*' gives a column's unit in m or rad; 'joint:N' also fits any N numbers that have no other meaning"
)


@dataclass(frozen=True)
class Part:
    """Adjacent columns with one meaning.

    Attributes:
        kind: the kind of the part in an `ActionSpace`.
        columns: the number of columns.
        form: the form of a rotation, as in `rotations.SHAPES`.
        unit: the size of one unit of the columns, in m or rad.
    """

    kind: str
    columns: int
    form: str = ""
    unit: float = 1.0

    def __str__(self) -> str:
        name = f"joint:{self.columns}" if self.kind == "joint" else self.form or self.kind
        return name if self.unit == 1 else f"{name}*{float(self.unit)!r}"


@dataclass(frozen=True)
class ActionLayout:
    """The layout of a dataset's action columns, with the conversion to a head's actions and back.

    Attributes:
        parts: the parts, in the order of the columns.
        mode: mode of the head's `ActionSpace`, "absolute" or "delta".
        gripper: values of the dataset for an open and for a closed gripper. A head uses -1 and +1.

    Raises:
        ValueError: the two values of `gripper` are equal.

    Examples:
        >>> import torch
        >>> layout = ActionLayout.parse("position quaternion gripper", gripper=(0.0, 1.0))
        >>> columns = torch.tensor([[0.4, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0, 1.0]])  # x y z, x y z w, closed
        >>> layout.encode(columns)
        tensor([[0.4000, 0.0000, 0.2000, 1.0000, 0.0000, 0.0000, 0.0000, 1.0000, 0.0000,
                 1.0000]])
        >>> torch.allclose(layout.decode(layout.encode(columns)), columns)
        True
    """

    parts: tuple[Part, ...]
    mode: str = "absolute"
    gripper: tuple[float, float] = UNDECLARED

    def __post_init__(self) -> None:
        if len(self.gripper) != 2 or self.gripper[0] == self.gripper[1]:
            raise ValueError(f"gripper must be two different values, for open and for closed, got {self.gripper}")

    @classmethod
    def parse(cls, text: str, gripper: tuple[float, float] = UNDECLARED) -> ActionLayout:
        """Return the layout that a text declares.

        Args:
            text: a name of `LAYOUTS`, such as "libero", or the parts in the order of the columns, such as
                "position quaternion gripper". "delta:" in front declares changes instead of absolute poses. "*0.05"
                behind a part gives its unit in m or rad. Parts: position, gripper, joint:N and the rotations 6d,
                quaternion (x y z w), quaternion_wxyz, axis_angle and euler_xyz, as `rotations` defines them.
            gripper: as in `ActionLayout`.

        Raises:
            ValueError: the text has an unknown part or an invalid unit.
        """
        mode, parts = "absolute", LAYOUTS.get(text, text)
        if parts.startswith("delta:"):
            mode, parts = "delta", parts.removeprefix("delta:")
        found = [(word, PART.fullmatch(word)) for word in parts.split()]
        if not found or any(match is None for _, match in found):
            wrong = next((word for word, match in found if match is None), text)
            raise ValueError(f"unknown part {wrong!r} in the layout {text!r}; {GRAMMAR}; by name: {table()}")
        return cls(tuple(_part(match) for _, match in found if match), mode, gripper)

    @property
    def width(self) -> int:
        """Number of columns d."""
        return sum(part.columns for part in self.parts)

    def places(self) -> Iterator[tuple[Part, slice]]:
        """Yield each part with its columns."""
        begin = 0
        for part in self.parts:
            yield part, slice(begin, begin + part.columns)
            begin += part.columns

    def space(self) -> ActionSpace:
        """Return the action space of a head with this layout."""
        parts = tuple((part.kind, WIDTHS[part.kind] or part.columns) for part in self.parts)
        return ActionSpace(parts, self.mode, "as recorded in the dataset")

    def encode(self, actions: Tensor) -> Tensor:
        """Convert columns (... d) to a head's actions (... a) in robot units, float32."""
        self.check_width(actions, self.width)
        pieces = actions.float().split([part.columns for part in self.parts], dim=-1)
        return torch.cat([self._encode(part, x) for part, x in zip(self.parts, pieces, strict=True)], dim=-1)

    def decode(self, actions: Tensor, last: Tensor | None = None, canonical: bool = False) -> Tensor:
        """Convert a head's actions (... a) to columns (... d): the inverse of `encode`.

        A rotation can be written in several ways, such as q and -q. Along a chunk (b h a) of absolute actions, each
        rotation is written in the way closest to the previous one, so that no column jumps by a whole turn. Single
        actions (a) or (b a) are continued only from `last`. A delta always gets its shortest rotation.

        Args:
            actions: actions of the head in robot units.
            last: the columns decoded just before, without the axis h.
            canonical: write each rotation on its own, as `rotations.from_matrix` does (w >= 0, angles up to pi).

        Raises:
            ValueError: `actions` or `last` has the wrong width.
        """
        space = self.space()
        self.check_width(actions, space.dim)
        if last is not None:
            self.check_width(last, self.width)
        pieces = actions.split([width for _, width in space.parts], dim=-1)
        decoded = [self._decode(part, x) for part, x in zip(self.parts, pieces, strict=True)]
        if self.mode == "absolute" and not canonical:
            for i, (part, at) in enumerate(self.places()):
                if part.kind == "rotation":
                    before = None if last is None else last[..., at] * part.unit
                    decoded[i] = continued(decoded[i] * part.unit, part.form, actions.dim(), before) / part.unit
        return torch.cat(decoded, dim=-1)

    def decode_after(
        self, actions: Tensor, committed: Tensor, last: Tensor | None = None, canonical: bool = False
    ) -> Tensor:
        """Decode a chunk (b h a) to columns (b h d), of which the first n are given: those of `committed` (b n d).

        Encoding and decoding round, but the columns that are being executed must come back bit for bit.

        Args:
            actions: a chunk that begins with the committed actions, in robot units.
            committed: the columns of the first n time steps, n from 0 to h.
            last: as in `decode`, if n is 0. Otherwise the rest continues from the last committed columns.
            canonical: as in `decode`.

        Raises:
            ValueError: `actions`, `committed` or `last` has the wrong width.
        """
        self.check_width(committed, self.width)
        steps = committed.shape[1]
        rest = self.decode(actions[:, steps:], committed[:, -1] if steps else last, canonical)
        return torch.cat([committed.to(rest.dtype), rest], dim=1)

    def normalizer(self, stats: Mapping[str, Any], margin: float = 0.05) -> Normalizer:
        """Return the normalizer that maps a dataset's positions and joints to [-1, 1].

        Args:
            stats: statistics of the dataset's actions, with `min` and `max` (d).
            margin: widens each range, by this share of half of it on each side.

        Raises:
            ValueError: statistics are missing or not finite, or contradict a rotation's form or the declared values of
                the gripper.
        """
        low, high = check_range(self, stats)
        check_rotations(self, low, high)
        check_gripper(self, low, high)
        scaled = torch.tensor([part.unit for part in self.parts for _ in range(part.columns)], dtype=torch.float64)
        used = torch.tensor([part.kind in ("position", "joint") for part in self.parts for _ in range(part.columns)])
        low, high = (low * scaled)[used], (high * scaled)[used]
        room = margin * (high - low) / 2
        return Normalizer.from_range(low - room, high + room, self.space())

    def _encode(self, part: Part, x: Tensor) -> Tensor:
        if part.kind == "rotation":
            return from_matrix(to_matrix(x * part.unit, part.form), "6d")
        if part.kind == "gripper":
            opened, closed = self.gripper
            return 2 * (x - opened) / (closed - opened) - 1
        return x * part.unit

    def _decode(self, part: Part, x: Tensor) -> Tensor:
        if part.kind == "rotation":
            return from_matrix(to_matrix(x, "6d"), part.form) / part.unit
        if part.kind == "gripper":
            opened, closed = self.gripper
            return opened + (x + 1) * (closed - opened) / 2
        return x / part.unit

    def check_width(self, actions: Tensor, width: int) -> None:
        """Raise a ValueError unless actions (... d) have this width."""
        if actions.shape[-1] != width:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; expected (..., {width}) for the layout {self}"
            )

    def __str__(self) -> str:
        """Return the line that `parse` reads."""
        return ("delta: " if self.mode == "delta" else "") + " ".join(map(str, self.parts))


def _part(match: re.Match[str]) -> Part:
    if match["joints"]:
        return Part("joint", int(match["joints"]))
    name, unit = match["name"], float(match["unit"] or 1)
    if not 0 < unit < math.inf:
        raise ValueError(f"a unit must be a positive number, got {match[0]!r}")
    if unit != 1 and name not in ("position", "axis_angle", "euler_xyz"):
        raise ValueError(f"{name} takes no unit; only position (m), axis_angle and euler_xyz (rad) take one")
    if name in FORMS:
        return Part("rotation", SHAPES[name][0], name, unit)
    return Part(name, 3 if name == "position" else 1, unit=unit)


def layout_of(
    declared: str | None, width: int, names: Sequence[str] | None, gripper: tuple[float, float]
) -> ActionLayout:
    """Return the declared layout, or the one that the names of the columns determine.

    Args:
        declared: a name of `LAYOUTS`, or a line that `ActionLayout.parse` reads; None to infer the layout.
        width: number of columns of the dataset's actions.
        names: names of the columns; None if the dataset has none.
        gripper: as in `ActionLayout`.

    Raises:
        ValueError: the declared layout has another width, or none can be inferred.
    """
    if declared is not None:
        layout = ActionLayout.parse(declared, gripper)
        if layout.width != width:
            raise ValueError(
                f"layout {declared!r} has {layout.width} columns, but the dataset's actions have {width}{listed(names)}"
            )
        check_names(layout, names)
        return layout
    guess = guess_layout(width, names)
    if guess is None:
        fitting = table(width)
        raise ValueError(
            f"the dataset's actions have {width} columns{listed(names)}, and their meaning is not known. Declare a "
            f"layout: {f'choose {fitting}, or write it out, where ' if fitting else ''}{GRAMMAR}"
        )
    return ActionLayout.parse(guess, gripper)


def table(width: int | None = None) -> str:
    """List the layouts of `LAYOUTS`, or those of one width, with their definitions."""
    return ", ".join(
        f"{name} ({line})" for name, line in LAYOUTS.items() if width in (None, ActionLayout.parse(name).width)
    )
