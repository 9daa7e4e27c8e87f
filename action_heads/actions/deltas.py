"""Changes of the parts of an action from one time step to the next, and back.

Axes: b batch, h horizon.
"""

from __future__ import annotations

import torch
from torch import Tensor

from action_heads.actions.rotations import from_matrix, to_matrix


def _matrix(rows: Tensor) -> Tensor:
    return to_matrix(rows, "6d")


def _turn_between(now: Tensor, before: Tensor) -> Tensor:
    """Return R_now R_before^T, the rotation about the axes of the base frame from `before` to `now`, all (... 6)."""
    return from_matrix(_matrix(now) @ _matrix(before).transpose(-1, -2), "6d")


def _turn_onto(turn: Tensor, before: Tensor) -> Tensor:
    return from_matrix(_matrix(turn) @ _matrix(before), "6d")


def _turn_chained(turns: Tensor, start: Tensor) -> Tensor:
    """Apply rotations D (b h 6) in sequence from start (b 1 6): R_i = D_i R_{i-1}, as (b h 6)."""
    steps = [_matrix(start[:, 0])]
    for turn in _matrix(turns).unbind(1):
        steps.append(turn @ steps[-1])
    return from_matrix(torch.stack(steps[1:], dim=1), "6d")


def _gripper(now: Tensor, before: Tensor) -> Tensor:
    return now


# By kind: actions and their references to deltas (BETWEEN), and back from "current" (ONTO) and "previous" (CHAINED).
BETWEEN = {"position": torch.sub, "joint": torch.sub, "rotation": _turn_between, "gripper": _gripper}
ONTO = {"position": torch.add, "joint": torch.add, "rotation": _turn_onto, "gripper": _gripper}
CHAINED = {
    "position": lambda deltas, start: start + deltas.cumsum(1),
    "joint": lambda deltas, start: start + deltas.cumsum(1),
    "rotation": _turn_chained,
    "gripper": _gripper,
}
