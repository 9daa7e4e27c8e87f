"""Where Stage 1's chunks come from: named sources of joint motion, mixed, seen as actions of a task to come.

Axes: b batch, h horizon, a action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from action_heads.kinematics import pose_actions, recorded_chunks, synthetic_chunks

# A number of chunks and a generator -> joints (b h 7) in rad and gripper (b h), -1 open, +1 closed.
Source = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

BOX = (0.05, 1.2)  # half-width in metres of a task's workspace, log-uniform


def source(name: str, horizon: int, split: str = "train") -> Source:
    """A source by name: `synthetic:panda` (endless) or `recorded:panda` (two hours of real motion)."""
    if name == "synthetic:panda":
        return lambda n, generator: synthetic_chunks(n, horizon, generator=generator)
    if name == "recorded:panda":
        return recorded_chunks(split, horizon).sample
    raise ValueError(f"unknown data source {name!r}; choose from synthetic:panda, recorded:panda")


def mixture(names: Sequence[str], horizon: int, split: str = "train") -> Source:
    """Equal parts of several sources."""
    sources = [source(name, horizon, split) for name in names]

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shares = [n // len(sources) + (i < n % len(sources)) for i in range(len(sources))]
        parts = [s(share, generator) for s, share in zip(sources, shares, strict=True) if share]
        joints, gripper = zip(*parts, strict=True)
        return torch.cat(joints), torch.cat(gripper)

    return sample


def chunks(sample: Source, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Actions (b h 10) in metres, and the signal (b, 8·h) that Stage 1 may condition on: joints and gripper."""
    joints, gripper = sample(n, generator)
    signal = torch.cat([joints, gripper[..., None]], dim=-1)
    return pose_actions(joints, gripper), signal.flatten(1)


def through_a_task(actions: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
    """Actions (b h a) with their positions normalised by the workspace box of a random task.

    A task normalises positions by its own workspace, 10 cm or 1 m wide. A head that has only seen motion at the scale
    of the whole arm would meet a task's motion enlarged several times, so Stage 1 shows it every scale.
    `positions` (a,) is true where an entry is normalised.
    """
    p = actions[..., positions]
    low, high = p.amin(1, keepdim=True), p.amax(1, keepdim=True)
    shape = (len(p), 1, 1)
    box = BOX[0] * torch.exp(torch.rand(shape, generator=generator) * math.log(BOX[1] / BOX[0]))
    half = torch.maximum(box, (high - low).amax(-1, keepdim=True) / 2)
    # The chunk lies anywhere inside the box, not at its centre.
    room = 1 - (high - low) / (2 * half)
    centre = (2 * torch.rand(low.shape, generator=generator) - 1) * room
    actions = actions.clone()
    actions[..., positions] = (p - (low + high) / 2) / half + centre
    return actions
