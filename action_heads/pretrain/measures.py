"""Measures of chunks: whether a robot could execute them, and whether they resemble the data.

Axes: b and n, m chunks, h horizon, a action, d = h·a entries of a chunk, k parts of one kind (arms).
Every mean comes with its standard error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from action_heads.actions.spaces import ActionSpace

DECIDED = 0.1  # a gripper is decided where it is this close to -1 or +1


class Mean(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float | None  # None for a single value

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """Return the mean of independent values (b,)."""
        values = values.double()
        return cls(float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None)


def reach(actions: Tensor, space: ActionSpace) -> float:
    """Return the largest distance, in m, of a hand in these chunks (b h a) from the robot's base."""
    return float(_parts(actions, space, "position").norm(dim=-1).max())


def chunk_measures(actions: Tensor, space: ActionSpace, reach: float) -> dict[str, Tensor]:
    """Return measures (b,) of each chunk (b h a) in robot units, for the parts that its space has.

    in_reach: share of time steps within `reach` metres of the base. Deltas do not have it, since they do not determine
    where the hand is. step_mm: mean path length of a time step. acceleration_mm: root mean square of the second
    difference of the path, in mm/step²; a single time step has none. rotation_error: mean deviation of the products of
    the two rows from those of an orthonormal matrix. gripper_decided: share of time steps whose gripper is within
    `DECIDED` of open or closed.
    """
    found = {}
    if space.slices("position"):
        position = _parts(actions, space, "position")
        absolute = space.mode == "absolute"
        if absolute:
            found["in_reach"] = (position.norm(dim=-1) <= reach).float().mean((1, 2))
        steps = position.diff(dim=1) if absolute else position
        found["step_mm"] = 1e3 * steps.norm(dim=-1).mean((1, 2))
        found["acceleration_mm"] = 1e3 * steps.diff(dim=1).square().sum(-1).mean((1, 2)).sqrt()
    if space.slices("rotation"):
        rows = _parts(actions, space, "rotation").unflatten(-1, (2, 3))
        found["rotation_error"] = (rows @ rows.mT - torch.eye(2)).abs().mean((1, 2, 3, 4))
    if space.slices("gripper"):
        off = (_parts(actions, space, "gripper").abs() - 1).abs()
        found["gripper_decided"] = (off < DECIDED).float().mean((1, 2, 3))
    return found


def energy_distance(x: Tensor, y: Tensor) -> Mean:
    """Return 2·E|X - Y| - E|X - X'| - E|Y - Y'| of the distributions of chunks x (n h a) and y (m h a).

    Lengths are root mean squares over the d entries. Equal distributions have distance 0. No chunk is compared with
    itself, so two draws of one distribution give 0 on average, and sometimes slightly less. The standard error comes
    from a first-order expansion in single chunks. It is too small if the distance is close to 0. In that case compare
    with the distance between two draws of the data.
    """
    x, y = (z.flatten(1).double() / math.sqrt(z[0].numel()) for z in (x, y))
    between, within_x, within_y = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    others_x, others_y = (w.sum(1) / (len(w) - 1) for w in (within_x, within_y))
    value = 2 * between.mean() - others_x.mean() - others_y.mean()
    pull_x, pull_y = 2 * (between.mean(1) - others_x), 2 * (between.mean(0) - others_y)
    return Mean(float(value), math.sqrt(float(pull_x.var() / len(x) + pull_y.var() / len(y))))


def _parts(actions: Tensor, space: ActionSpace, kind: str) -> Tensor:
    """Return all parts of a kind (b h k width) of actions (b h a)."""
    return torch.stack([actions[..., part] for part in space.slices(kind)], dim=2)
