"""Layouts of a dataset's actions: one line declares the meaning of each column, and maps it to a head's actions.

Axes: ... any leading axes, d columns of the dataset, a action of the head.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads.actions.column_names import guess_layout, kinds_of, listed
from action_heads.actions.normalize import Normalizer
from action_heads.actions.rotations import SHAPES, from_matrix, to_matrix
from action_heads.actions.spaces import WIDTHS, ActionSpace, continued

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
NORMED = ("6d", "quaternion", "quaternion_wxyz")  # the other forms are angles, of which any three are a rotation
UNITS = r"(?:\*(?P<unit>\d*\.?\d+(?:e[+-]?\d+)?))?"
PART = re.compile(rf"(?P<name>position|gripper|{'|'.join(FORMS)}){UNITS}|joint:(?P<joints>[1-9]\d*)")
GRAMMAR = (
    "a layout is a list of parts in the order of the columns, such as 'position quaternion gripper', or "
    f"'delta: position*0.05 axis_angle*0.5 gripper': position, gripper, joint:N, or a rotation as {', '.join(FORMS)}; "
    "'*' gives a column's unit in m or rad; 'joint:N' also fits any N numbers that have no other meaning"
)
OFF = 0.1  # by which the norm of a quaternion or of a row of 6d may differ from 1; both are normalised
TURN = 2 * math.pi + 0.01  # rad; the largest angle of a rotation, of at most one turn


class Undeclared(tuple[float, float]):
    """Gripper values that are assumed, since none were declared. Compares equal to the plain, declared pair."""


UNDECLARED = Undeclared((-1.0, 1.0))


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

    def space(self) -> ActionSpace:
        """Return the action space of a head with this layout."""
        parts = tuple((part.kind, WIDTHS[part.kind] or part.columns) for part in self.parts)
        return ActionSpace(parts, self.mode, "as recorded in the dataset")

    def encode(self, actions: Tensor) -> Tensor:
        """Convert columns (... d) to a head's actions (... a) in robot units, float32."""
        self._check(actions, self.width)
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
        self._check(actions, space.dim)
        if last is not None:
            self._check(last, self.width)
        pieces = actions.split([width for _, width in space.parts], dim=-1)
        decoded = [self._decode(part, x) for part, x in zip(self.parts, pieces, strict=True)]
        if self.mode == "absolute" and not canonical:
            for i, (part, at) in enumerate(self._places()):
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
        self._check(committed, self.width)
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
        low, high = self.check_range(stats)
        self.check_rotations(low, high)
        self.check_gripper(low, high)
        scaled = torch.tensor([part.unit for part in self.parts for _ in range(part.columns)], dtype=torch.float64)
        used = torch.tensor([part.kind in ("position", "joint") for part in self.parts for _ in range(part.columns)])
        low, high = (low * scaled)[used], (high * scaled)[used]
        room = margin * (high - low) / 2
        return Normalizer.from_range(low - room, high + room, self.space())

    def check_names(self, names: Sequence[str] | None) -> None:
        """Raise if the names of a dataset's columns put the gripper elsewhere than the layout does."""
        ours = {at.start for part, at in self._places() if part.kind == "gripper"}
        theirs = {i for i, kind in enumerate(kinds_of(names)) if kind == "g"} if names else set()
        if len(names or ()) == self.width and ours and theirs and not ours & theirs:
            raise ValueError(
                f"the layout '{self}' has the gripper at column {', '.join(map(str, sorted(ours)))}, but the dataset's "
                f"names say column {', '.join(map(str, sorted(theirs)))}{listed(names)}"
            )

    def check_range(self, stats: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return `min` and `max` (d) of a dataset's actions as float64; raise if they are missing or not finite."""
        if absent := [name for name in ("min", "max") if stats.get(name) is None]:
            raise ValueError(
                f"statistics of the actions have no {' and no '.join(absent)}, only {', '.join(stats) or 'nothing'}. "
                "Both are needed for every dimension. Compute the dataset's statistics again."
            )
        low, high = (torch.as_tensor(stats[name], dtype=torch.float64).flatten().cpu() for name in ("min", "max"))
        for bound in (low, high):
            self._check(bound, self.width)
        if bad := (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist():
            raise ValueError(
                f"the actions hold NaN or infinity in {', '.join(map(self.describe, bad))} (min {low[bad].tolist()}, "
                f"max {high[bad].tolist()}). Remove the episodes with these values from the dataset, and compute its "
                "statistics again."
            )
        return low, high

    def check_rotations(self, low: Tensor, high: Tensor) -> None:
        """Raise if the range of a dataset's actions, low and high (d), exceeds what a rotation of its form can be.

        Then the columns hold something else, such as joints, or angles in degrees.
        """
        largest = torch.maximum(low.abs(), high.abs())
        for part, at in self._places():
            if part.kind != "rotation":
                continue
            normed = part.form in NORMED
            most = 1 + OFF if normed else TURN / part.unit
            reached, column = largest[at].max(0)
            if reached > most:
                hint = "Are these joints?" if normed else "Are these degrees, or joints?"
                raise ValueError(
                    f"{self.describe(at.start + int(column))} reaches {float(reached):.4g}, but no rotation as "
                    f"{part.form} exceeds {most:.4g}. {hint} Declare the layout that the columns have, or convert them"
                )

    def impossible(self, actions: Tensor) -> Tensor:
        """Return which columns (n d) hold a quaternion or rows of 6d that are no rotation, such as zeros: bool (n)."""
        self._check(actions, self.width)
        bad = torch.zeros(len(actions), dtype=torch.bool, device=actions.device)
        for part, at in self._places():
            x = actions[:, at].double()
            if part.form == "6d":
                rows = x.unflatten(-1, (2, 3))
                bad |= ((rows @ rows.mT - torch.eye(2).to(rows)).abs() > 2 * OFF).flatten(1).any(-1)
            elif part.form in NORMED:
                bad |= (x.norm(dim=-1) - 1).abs() > OFF
        return bad

    def describe(self, column: int) -> str:
        """Return the number of a column with the part that it belongs to, for a message."""
        for part, at in self._places():
            if column < at.stop:
                of = f", {column - at.start + 1} of {part.columns}" if part.columns > 1 else ""
                return f"dimension {column} ({part.form or part.kind}{of})"
        raise IndexError(f"no dimension {column} among the {self.width} of the layout {str(self)!r}")

    def _places(self) -> Iterator[tuple[Part, slice]]:
        """Yield each part with its columns."""
        begin = 0
        for part in self.parts:
            yield part, slice(begin, begin + part.columns)
            begin += part.columns

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

    def _check(self, actions: Tensor, width: int) -> None:
        if actions.shape[-1] != width:
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; expected (..., {width}) for the layout {self}"
            )

    def check_gripper(self, low: Tensor, high: Tensor) -> None:
        """Raise if a dataset's gripper contradicts the declared values, since a head could not reach its own.

        `low` and `high` (d) are the range of the dataset's actions.

        Values that were not declared but assumed are also rejected if they look like another convention, such as 0 to
        1. A gripper that never moves contradicts no convention, so it causes only a warning.
        """
        bottom, top = sorted(self.gripper)
        slack = 0.1 * (top - bottom)
        for column in (at.start for part, at in self._places() if part.kind == "gripper"):
            least, most = float(low[column]), float(high[column])
            outside = least < bottom - slack or most > top + slack
            doubted = isinstance(self.gripper, Undeclared) and -0.02 * (top - bottom) <= least < most
            if outside or doubted:
                raise ValueError(self._other_gripper(column, least, most, outside))
            if least == most:
                warnings.warn(
                    f"column {column}, the gripper, is {least:g} in every row, so the policy learns to keep it "
                    f"there ({self.gripper[0]:g} is open, {self.gripper[1]:g} closed)",
                    stacklevel=3,
                )

    def _other_gripper(self, column: int, least: float, most: float, outside: bool) -> str:
        runs = f"runs from {least:g} to {most:g}" if least < most else f"is {least:g} in every row"
        taken = "is assumed to be" if isinstance(self.gripper, Undeclared) else "was declared as"
        such = f", such as {least:g} and {most:g}" if least < most else f"; one of them may be {least:g}"
        keep = "" if outside else f". If {self.gripper[0]:g} and {self.gripper[1]:g} are right, declare these"
        return (
            f"column {column}, the gripper, {runs} but {taken} {self.gripper[0]:g} open, {self.gripper[1]:g} closed. "
            f"Declare the values for open and for closed{such}{keep}"
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
        layout.check_names(names)
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
