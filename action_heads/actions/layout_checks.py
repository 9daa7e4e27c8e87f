"""Checks of a dataset's actions, their names and their statistics, against the layout that they should have.

Axes: n rows, d columns of the dataset.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads.actions.column_names import kinds_of, listed

if TYPE_CHECKING:
    from action_heads.actions.layouts import ActionLayout

NORMED = ("6d", "quaternion", "quaternion_wxyz")  # the other forms are angles, of which any three are a rotation
OFF = 0.1  # by which the norm of a quaternion or of a row of 6d may differ from 1; both are normalised
TURN = 2 * math.pi + 0.01  # rad; the largest angle of a rotation, of at most one turn


class Undeclared(tuple[float, float]):
    """Gripper values that are assumed, since none were declared. Compares equal to the plain, declared pair."""


UNDECLARED = Undeclared((-1.0, 1.0))


def check_names(layout: ActionLayout, names: Sequence[str] | None) -> None:
    """Raise if the names of a dataset's columns put the gripper elsewhere than the layout does."""
    ours = {at.start for part, at in layout.places() if part.kind == "gripper"}
    theirs = {i for i, kind in enumerate(kinds_of(names)) if kind == "g"} if names else set()
    if len(names or ()) == layout.width and ours and theirs and not ours & theirs:
        raise ValueError(
            f"the layout '{layout}' has the gripper at column {', '.join(map(str, sorted(ours)))}, but the dataset's "
            f"names say column {', '.join(map(str, sorted(theirs)))}{listed(names)}"
        )


def check_range(layout: ActionLayout, stats: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return `min` and `max` (d) of a dataset's actions as float64; raise if they are missing or not finite."""
    if absent := [name for name in ("min", "max") if stats.get(name) is None]:
        raise ValueError(
            f"statistics of the actions have no {' and no '.join(absent)}, only {', '.join(stats) or 'nothing'}. "
            "Both are needed for every dimension. Compute the dataset's statistics again."
        )
    low, high = (torch.as_tensor(stats[name], dtype=torch.float64).flatten().cpu() for name in ("min", "max"))
    for bound in (low, high):
        layout.check_width(bound, layout.width)
    if bad := (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist():
        where = ", ".join(_described(layout, column) for column in bad)
        raise ValueError(
            f"the actions hold NaN or infinity in {where} (min {low[bad].tolist()}, "
            f"max {high[bad].tolist()}). Remove the episodes with these values from the dataset, and compute its "
            "statistics again."
        )
    return low, high


def check_rotations(layout: ActionLayout, low: Tensor, high: Tensor) -> None:
    """Raise if the range of a dataset's actions, low and high (d), exceeds what a rotation of its form can be.

    Then the columns hold something else, such as joints, or angles in degrees.
    """
    largest = torch.maximum(low.abs(), high.abs())
    for part, at in layout.places():
        if part.kind != "rotation":
            continue
        normed = part.form in NORMED
        most = 1 + OFF if normed else TURN / part.unit
        reached, column = largest[at].max(0)
        if reached > most:
            hint = "Are these joints?" if normed else "Are these degrees, or joints?"
            raise ValueError(
                f"{_described(layout, at.start + int(column))} reaches {float(reached):.4g}, but no rotation as "
                f"{part.form} exceeds {most:.4g}. {hint} Declare the layout that the columns have, or convert them"
            )


def impossible(layout: ActionLayout, actions: Tensor) -> Tensor:
    """Return which columns (n d) hold a quaternion or rows of 6d that are no rotation, such as zeros: bool (n)."""
    layout.check_width(actions, layout.width)
    bad = torch.zeros(len(actions), dtype=torch.bool, device=actions.device)
    for part, at in layout.places():
        x = actions[:, at].double()
        if part.form == "6d":
            rows = x.unflatten(-1, (2, 3))
            bad |= ((rows @ rows.mT - torch.eye(2).to(rows)).abs() > 2 * OFF).flatten(1).any(-1)
        elif part.form in NORMED:
            bad |= (x.norm(dim=-1) - 1).abs() > OFF
    return bad


def check_gripper(layout: ActionLayout, low: Tensor, high: Tensor) -> None:
    """Raise if a dataset's gripper contradicts the declared values, since a head could not reach its own.

    `low` and `high` (d) are the range of the dataset's actions.

    Values that were not declared but assumed are also rejected if they look like another convention, such as 0 to
    1. A gripper that never moves contradicts no convention, so it causes only a warning.
    """
    bottom, top = sorted(layout.gripper)
    slack = 0.1 * (top - bottom)
    for column in (at.start for part, at in layout.places() if part.kind == "gripper"):
        least, most = float(low[column]), float(high[column])
        outside = least < bottom - slack or most > top + slack
        doubted = isinstance(layout.gripper, Undeclared) and -0.02 * (top - bottom) <= least < most
        if outside or doubted:
            raise ValueError(_other_gripper(layout, column, least, most, outside))
        if least == most:
            warnings.warn(
                f"column {column}, the gripper, is {least:g} in every row, so the policy learns to keep it "
                f"there ({layout.gripper[0]:g} is open, {layout.gripper[1]:g} closed)",
                stacklevel=3,
            )


def _other_gripper(layout: ActionLayout, column: int, least: float, most: float, outside: bool) -> str:
    runs = f"runs from {least:g} to {most:g}" if least < most else f"is {least:g} in every row"
    taken = "is assumed to be" if isinstance(layout.gripper, Undeclared) else "was declared as"
    such = f", such as {least:g} and {most:g}" if least < most else f"; one of them may be {least:g}"
    keep = "" if outside else f". If {layout.gripper[0]:g} and {layout.gripper[1]:g} are right, declare these"
    return (
        f"column {column}, the gripper, {runs} but {taken} {layout.gripper[0]:g} open, {layout.gripper[1]:g} closed. "
        f"Declare the values for open and for closed{such}{keep}"
    )


def _described(layout: ActionLayout, column: int) -> str:
    """Return the number of a column with the part that it belongs to, for a message."""
    for part, at in layout.places():
        if column < at.stop:
            of = f", {column - at.start + 1} of {part.columns}" if part.columns > 1 else ""
            return f"dimension {column} ({part.form or part.kind}{of})"
    raise IndexError(f"no dimension {column} among the {layout.width} of the layout {str(layout)!r}")
