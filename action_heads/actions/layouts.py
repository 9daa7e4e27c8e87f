"""Which columns of a dataset's action mean what: declared in one line, and mapped to a head's actions and back.

Axes: ... any leading axes, d columns of the dataset, a action of the head.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads.actions.normalize import Normalizer
from action_heads.actions.rotations import SHAPES, from_matrix, to_matrix
from action_heads.actions.spaces import WIDTHS, ActionSpace, continued

LAYOUTS = {
    "libero": "delta: position*0.05 axis_angle*0.5 gripper",  # robosuite's OSC_POSE: 5 cm and half a radian a unit
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
UNITS = r"(?:\*(?P<unit>\d*\.?\d+(?:e-?\d+)?))?"
PART = re.compile(rf"(?P<name>position|gripper|{'|'.join(FORMS)}){UNITS}|joint:(?P<joints>[1-9]\d*)")
GRAMMAR = (
    "a layout is a list of parts in the order of the columns, such as 'position quaternion gripper', or "
    f"'delta: position*0.05 axis_angle*0.5 gripper': position, gripper, joint:N, or a rotation as {', '.join(FORMS)}; "
    "'*' gives a column's unit in m or rad; 'joint:N' also fits any N numbers of which a head knows nothing"
)
JOINT = re.compile(r"joint|motor|\.pos$|waist|shoulder|elbow|forearm|wrist", re.IGNORECASE)


class Undeclared(tuple[float, float]):
    """What a gripper's values are taken for where nobody said it. Equal to the plain pair, which is a declaration."""


UNDECLARED = Undeclared((-1.0, 1.0))


@dataclass(frozen=True)
class Part:
    """Neighbouring columns: what they are in an `ActionSpace`, how many, a rotation's form, and their unit (m, rad)."""

    kind: str
    columns: int
    form: str = ""
    unit: float = 1.0

    def __str__(self) -> str:
        name = f"joint:{self.columns}" if self.kind == "joint" else self.form or self.kind
        return name if self.unit == 1 else f"{name}*{self.unit!r}"


@dataclass(frozen=True)
class ActionLayout:
    """Columns of a dataset <-> actions of a head.

    Attributes:
        parts: in the order of the columns.
        mode: of the head's `ActionSpace`, "absolute" or "delta".
        gripper: what the dataset writes for open and for closed; a head has -1 and +1.
    """

    parts: tuple[Part, ...]
    mode: str = "absolute"
    gripper: tuple[float, float] = UNDECLARED

    def __post_init__(self) -> None:
        if len(self.gripper) != 2 or self.gripper[0] == self.gripper[1]:
            raise ValueError(f"gripper is two different values, for open and for closed, got {self.gripper}")

    @classmethod
    def parse(cls, text: str, gripper: tuple[float, float] = UNDECLARED) -> ActionLayout:
        """A name of `LAYOUTS`, or a line of its grammar."""
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
        """Columns d."""
        return sum(part.columns for part in self.parts)

    def space(self) -> ActionSpace:
        """What a head makes of it."""
        parts = tuple((part.kind, WIDTHS[part.kind] or part.columns) for part in self.parts)
        return ActionSpace(parts, self.mode, "as recorded in the dataset")

    def encode(self, actions: Tensor) -> Tensor:
        """Columns (... d) -> a head's actions (... a), float32."""
        self._check(actions, self.width)
        pieces = actions.float().split([part.columns for part in self.parts], dim=-1)
        return torch.cat([self._encode(part, x) for part, x in zip(self.parts, pieces, strict=True)], dim=-1)

    def decode(self, actions: Tensor, last: Tensor | None = None, canonical: bool = False) -> Tensor:
        """A head's actions (... a) -> columns (... d): the inverse of `encode`.

        Along a chunk (... h a) of absolute actions, which has a batch axis, each rotation is written nearest to the one
        before it, so that no column jumps by a whole turn. Single actions (a) or (b a) are continued from `last` alone.
        A delta is always its shortest turn.

        Args:
            last: what was decoded before the chunk, or before these single actions: columns without the axis h.
            canonical: write each rotation by itself, as `rotations.from_matrix` does (w >= 0, angles up to pi).
        """
        space = self.space()
        self._check(actions, space.dim)
        if last is not None:
            self._check(last, self.width)
        pieces = actions.split([width for _, width in space.parts], dim=-1)
        decoded = [self._decode(part, x) for part, x in zip(self.parts, pieces, strict=True)]
        if self.mode == "absolute" and not canonical:
            begin = 0
            for i, part in enumerate(self.parts):
                if part.kind == "rotation":
                    before = None if last is None else last[..., begin : begin + part.columns] * part.unit
                    decoded[i] = continued(decoded[i] * part.unit, part.form, actions.dim(), before) / part.unit
                begin += part.columns
        return torch.cat(decoded, dim=-1)

    def normalizer(self, stats: Mapping[str, Any], margin: float = 0.05) -> Normalizer:
        """Of a dataset's statistics, `min` and `max` (d): positions and joints to [-1, 1], with a little room."""
        low, high = self.check_range(stats)
        self._check_gripper(low, high)
        scaled = torch.tensor([part.unit for part in self.parts for _ in range(part.columns)], dtype=torch.float64)
        used = torch.tensor([part.kind in ("position", "joint") for part in self.parts for _ in range(part.columns)])
        low, high = (low * scaled)[used], (high * scaled)[used]
        room = margin * (high - low) / 2
        return Normalizer.from_range(low - room, high + room, self.space())

    def check_range(self, stats: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The `min` and `max` (d) of a dataset's actions, float64. One that is missing, NaN or infinite is an error."""
        if absent := [name for name in ("min", "max") if stats.get(name) is None]:
            raise ValueError(
                f"the statistics of the actions have no {' and no '.join(absent)}: they need min and max of every "
                f"dimension, and have {', '.join(stats) or 'nothing'}. Compute the dataset's statistics again"
            )
        low, high = (torch.as_tensor(stats[name], dtype=torch.float64).flatten().cpu() for name in ("min", "max"))
        for bound in (low, high):
            self._check(bound, self.width)
        if bad := (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist():
            raise ValueError(
                f"the actions hold NaN or infinity in {', '.join(map(self.describe, bad))} (min {low[bad].tolist()}, "
                f"max {high[bad].tolist()}): look for the rows with them in the dataset, take their episodes out, and "
                "compute its statistics again"
            )
        return low, high

    def describe(self, column: int) -> str:
        """Say which column of the dataset's action this is: its number, and the part that it belongs to."""
        begin = 0
        for part in self.parts:
            if column < begin + part.columns:
                of = f", {column - begin + 1} of {part.columns}" if part.columns > 1 else ""
                return f"dimension {column} ({part.form or part.kind}{of})"
            begin += part.columns
        raise IndexError(f"no dimension {column} among {self.width}: {self}")

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
            raise ValueError(f"actions have shape {tuple(actions.shape)}; expected (..., {width}): {self}")

    def _check_gripper(self, low: Tensor, high: Tensor) -> None:
        """What the dataset holds must be possible under what was declared: beyond it a head could never reach.

        What nobody declared is doubted if the values look like those of another convention, which 0 to 1 does. A
        gripper that never moves contradicts neither: it is learnt as it is.
        """
        bottom, top = sorted(self.gripper)
        slack, begin = 0.1 * (top - bottom), 0
        for part in self.parts:
            if part.kind == "gripper":
                least, most = float(low[begin]), float(high[begin])
                outside = least < bottom - slack or most > top + slack
                doubted = isinstance(self.gripper, Undeclared) and 0 <= least < most
                if outside or doubted:
                    raise ValueError(self._other_gripper(begin, least, most, outside))
                if least == most:
                    warnings.warn(
                        f"column {begin}, the gripper, is {least:g} in every row: the policy learns to keep it there "
                        f"({self.gripper[0]:g} is open, {self.gripper[1]:g} closed)",
                        stacklevel=3,
                    )
            begin += part.columns

    def _other_gripper(self, column: int, least: float, most: float, outside: bool) -> str:
        runs = f"runs from {least:g} to {most:g}" if least < most else f"is {least:g} in every row"
        taken = "was taken for" if isinstance(self.gripper, Undeclared) else "was declared as"
        such = f", such as {least:g} and {most:g}" if least < most else f"; one of them may be {least:g}"
        keep = "" if outside else f". If it is {self.gripper[0]:g} and {self.gripper[1]:g} all the same, declare that"
        return (
            f"column {column}, the gripper, {runs} and {taken} {self.gripper[0]:g} open, {self.gripper[1]:g} closed: "
            f"say which value is open and which is closed{such}{keep}"
        )

    def __str__(self) -> str:
        """The line that `parse` reads."""
        return ("delta: " if self.mode == "delta" else "") + " ".join(map(str, self.parts))


def _part(match: re.Match[str]) -> Part:
    if match["joints"]:
        return Part("joint", int(match["joints"]))
    name, unit = match["name"], float(match["unit"] or 1)
    if not 0 < unit < math.inf:
        raise ValueError(f"a unit is a positive number, got {match[0]!r}")
    if unit != 1 and name not in ("position", "axis_angle", "euler_xyz"):
        raise ValueError(f"{name} has no unit: only position (m), axis_angle and euler_xyz (rad) have one")
    if name in FORMS:
        return Part("rotation", SHAPES[name][0], name, unit)
    return Part(name, 3 if name == "position" else 1, unit=unit)


def layout_of(
    declared: str | None, width: int, names: Sequence[str] | None, gripper: tuple[float, float]
) -> ActionLayout:
    """The layout that was declared, or the one that the names of the columns leave no doubt about.

    Args:
        declared: a name of `LAYOUTS` or a line of its grammar; None to guess.
        width: columns of the dataset.
        names: of the columns, if the dataset has any.
        gripper: as of `ActionLayout`.
    """
    if declared is not None:
        layout = ActionLayout.parse(declared, gripper)
        if layout.width != width:
            raise ValueError(f"{declared!r} has {layout.width} columns, the dataset's action {width}{_named(names)}")
        return layout
    guess = _guess(width, names)
    if guess is None:
        fitting = table(width)
        raise ValueError(
            f"the dataset's action has {width} columns{_named(names)}, and nothing says what they mean: "
            + (f"choose {fitting}, or write it out: {GRAMMAR}" if fitting else GRAMMAR)
        )
    return ActionLayout.parse(guess, gripper)


def _guess(width: int, names: Sequence[str] | None) -> str | None:
    """Only what is unambiguous: columns that are all joints and grippers by their names, or ten of a pose."""
    if names is not None and len(names) == width:
        kinds = ["g" if "gripper" in name.lower() else "j" if JOINT.search(name) else "?" for name in names]
        if "?" not in kinds:
            runs = re.findall(r"j+|g", "".join(kinds))
            return " ".join("gripper" if run == "g" else f"joint:{len(run)}" for run in runs)
    return "pose_6d" if width == 10 else None


def _named(names: Sequence[str] | None) -> str:
    return f" ({', '.join(names)})" if names else ""


def table(width: int | None = None) -> str:
    """The names of `LAYOUTS`, or of those with so many columns, with what they stand for."""
    return ", ".join(
        f"{name} ({line})" for name, line in LAYOUTS.items() if width in (None, ActionLayout.parse(name).width)
    )
