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
    se: float | None  # None of a single value

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        """Over independent values (b,)."""
        values = values.double()
        return cls(float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None)


def reach(actions: Tensor, space: ActionSpace) -> float:
    """Return the largest distance, in m, of a hand in these chunks (b h a) from the robot's base."""
    return float(_parts(actions, space, "position").norm(dim=-1).max())


def chunk_measures(actions: Tensor, space: ActionSpace, reach: float) -> dict[str, Tensor]:
    """Measure each chunk (b h a) in robot units, as far as its space has the parts (b,).

    in_reach: share of steps within `reach` metres of the base. Deltas say nothing of where the hand is: left out there.
    step_mm: mean path length of a step. acceleration_mm: root of the mean squared second difference of the path, in
    mm/step²; of one step alone there is none. rotation_error: mean distance of the two rows' products from those of an
    orthonormal matrix. gripper_decided: share of steps whose gripper is within `DECIDED` of open or closed.
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
    """2·E|X - Y| - E|X - X'| - E|Y - Y'| between the distributions behind chunks x (n h a) and y (m h a).

    Lengths are root mean squares over the d entries. It is 0 where the two agree; no chunk is compared with itself, so
    that two draws of one distribution give 0 on average, and now and then a little less. The error is that of the
    first-order expansion in single chunks, which is too small where the distance is close to 0: compare with draws of
    the data against each other there.
    """
    x, y = (z.flatten(1).double() / math.sqrt(z[0].numel()) for z in (x, y))
    between, within_x, within_y = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    others_x, others_y = (w.sum(1) / (len(w) - 1) for w in (within_x, within_y))
    value = 2 * between.mean() - others_x.mean() - others_y.mean()
    pull_x, pull_y = 2 * (between.mean(1) - others_x), 2 * (between.mean(0) - others_y)
    return Mean(float(value), math.sqrt(float(pull_x.var() / len(x) + pull_y.var() / len(y))))


def _parts(actions: Tensor, space: ActionSpace, kind: str) -> Tensor:
    """(b h a) -> (b h k width)."""
    return torch.stack([actions[..., part] for part in space.slices(kind)], dim=2)
