"""Synthetic motion of an arm, made on the fly: Stage 1 data without a robot.

Axes: `b` batch, `h` horizon (steps of a chunk), `s` segments of a path, `j` joints. Units: rad, s, m.

A path is a row of postures joined by minimum-jerk segments, s(u) = 10 u^3 - 15 u^4 + 6 u^5. A chunk is a window cut out
of it at a random moment. Summing clipped segments,

    q(t) = q_0 + sum_s (q_{s+1} - q_s) s((t - start_s) / duration_s),

gives motion, rests (a segment starts late) and passing through a posture without stopping (it starts early) in one
formula. Neighbours overlap by at most half of the shorter one. Then at most two segments are active, their phases stay
in order, and q is a convex combination of waypoints, so inside the limits, which are a box. The sum of two overlapping
minimum-jerk speeds peaks at 1.125 of one, so each segment is held to 1 / 1.125 of the arm's velocity limit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from action_heads.actions.rotations import from_matrix
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.panda import PANDA

# Standard deviation about home in the half of the batch that manipulates (recordings of Pandas: 0.1 to 0.9 rad), and
# the largest share of a joint's range that it may be: sliding joints and short ways stay off their stops.
SPREAD, SPREAD_SHARE = 0.5, 0.25
DURATION = (0.5, 6.0)  # s, log-uniform, stretched where the segment would be too fast
AMPLITUDE = (0.03, 1.0)  # share of the way to the next posture, log-uniform
STILL = 0.1  # share of the segments in which the arm stays where it is
REST = 1.5  # s, longest rest between two segments
FLIP = 0.3  # chance that the gripper switches at a waypoint, and half of that at any moment of a chunk
PEAK = 15 / 8  # peak of s'(u): a segment's peak velocity is this times distance / duration
OVERLAP_PEAK = 1.125  # of two overlapping segments, in units of one


class Shape(NamedTuple):
    """Statistics and recordings that shape synthetic motion to a corpus."""

    postures: Tensor  # (n, j) that paths are drawn between
    pace: float  # factor on the speed
    closed: float  # share of the chunks that begin with a closed gripper


def synthetic_chunks(
    batch: int,
    horizon: int = 16,
    rate_hz: float = 15.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    arm: Arm = PANDA,
    shape: Shape | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw random chunks: joints (b, h, j) in rad within the arm's limits, and grippers (b, h), -1 open or +1 closed.

    The first half of the batch moves about the arm's home posture, the second anywhere within the limits. A `shape`
    gives the postures and the speed of all instead. Nothing keeps the arm out of itself or the table. The same
    generator state gives the same chunks.
    """
    if batch < 1 or horizon < 1 or not rate_hz > 0:
        raise ValueError(f"batch {batch}, horizon {horizon} and rate_hz {rate_hz} must all be positive")
    device = torch.device(device or (generator.device if generator is not None else "cpu"))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    window = (horizon - 1) / rate_hz
    # Two segments in which the window may begin, and what it may run into afterwards.
    segments = 2 + max(1, math.ceil(window / 1.5))

    if shape is None:
        postures = _postures(arm, uniform(batch, segments + 1, len(arm)), generator)
    else:
        drawn = torch.randint(len(shape.postures), (batch, segments + 1), generator=generator, device=device)
        postures = shape.postures.to(device)[drawn]
    reach = _log_uniform(AMPLITUDE, uniform(batch, segments)) * (uniform(batch, segments) > STILL)
    first, moves = _path(postures, reach)

    fastest = (moves.abs() / arm.velocity.to(device)).amax(-1) * (PEAK * OVERLAP_PEAK)
    duration = torch.maximum(_log_uniform(DURATION, uniform(batch, segments)) / (shape.pace if shape else 1), fastest)
    start = _starts(duration, uniform(batch, segments - 1))
    end = start + duration

    begin = uniform(batch, 1) * end[:, 1:2]
    time = begin + torch.arange(horizon, device=device) / rate_hz
    phase = ((time[:, :, None] - start[:, None]) / duration[:, None]).clamp_(0, 1)
    progress = phase**3 * (10 + phase * (6 * phase - 15))
    joints = torch.baddbmm(first[:, None], progress, moves)

    # Rounding alone could pass a limit by 1e-7 rad.
    joints = joints.clamp(arm.lower.to(device), arm.upper.to(device))
    closed = None if shape is None else shape.closed
    return joints, _gripper(time, end, begin + uniform(batch, 1) * window, uniform(batch, segments + 2), closed)


def _postures(arm: Arm, uniform: Tensor, generator: torch.Generator | None) -> Tensor:
    """Map uniform (b, s + 1, j) in [0, 1) to postures (b, s + 1, j): half of them about home, the rest anywhere."""
    lowest, highest, home = (limit.to(uniform) for limit in (arm.lower, arm.upper, arm.home))
    spread = (SPREAD_SHARE * (highest - lowest)).clamp(max=SPREAD)
    postures = torch.lerp(lowest, highest, uniform)
    near = postures[: (len(postures) + 1) // 2]
    near.normal_(generator=generator).mul_(spread).add_(home).clamp_(lowest, highest)
    return postures


def _path(postures: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Go `reach` (b, s) of the way to each next posture -> first waypoint (b, j), moves (b, s, j)."""
    waypoint = first = postures[:, 0]
    moves = []
    for segment in range(reach.shape[1]):
        moves.append((postures[:, segment + 1] - waypoint) * reach[:, segment, None])
        waypoint = waypoint + moves[-1]
    return first, torch.stack(moves, dim=1)


def _starts(duration: Tensor, uniform: Tensor) -> Tensor:
    """Start of every segment (b, s): in a third of the cases before the one ahead has ended, else after a rest."""
    overlap = 0.5 * torch.minimum(duration[:, 1:], duration[:, :-1])
    gap = torch.where(uniform < 1 / 3, -3 * uniform * overlap, (1.5 * uniform - 0.5) * REST)
    steps = duration[:, :-1] + gap
    return torch.cat((torch.zeros_like(steps[:, :1]), steps.cumsum(1)), dim=1)


def _gripper(time: Tensor, end: Tensor, moment: Tensor, uniform: Tensor, share: float | None = None) -> Tensor:
    """Return grippers (b, h), -1 or +1, at time (b, h).

    They may switch at end (b, s) and moment (b, 1); uniform (b, s + 2) decides at which. A share of the chunks, if one
    is given, begins closed.
    """
    moments = torch.cat((end, moment), dim=1)
    chance = torch.full_like(moments[0], FLIP)
    chance[-1] = FLIP / 2
    flips = ((time[:, :, None] >= moments[:, None]) & (uniform[:, None, 1:] < chance)).sum(-1)
    if share is not None:
        flips = flips - flips[:, :1]
    closed = (flips + (uniform[:, :1] < (0.5 if share is None else share))) % 2
    return 2.0 * closed - 1.0


def _log_uniform(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    low, high = bounds
    return low * (uniform * math.log(high / low)).exp()


def pose_actions(joints: Tensor, gripper: Tensor, frame: str | None = None, arm: Arm = PANDA) -> Tensor:
    """Return absolute actions (..., h, 10), as in `EE_ABSOLUTE`, for joints (..., h, j) in rad and grippers (..., h).

    An action is a position 3 (m, base frame), a rotation 6 (first two rows of the matrix) and a gripper 1 (-1 open, +1
    closed). Poses are those of `frame`, by default the arm's own.
    """
    if gripper.shape != joints.shape[:-1]:
        raise ValueError(
            f"joints {tuple(joints.shape)} need gripper {tuple(joints.shape[:-1])}, not {tuple(gripper.shape)}"
        )
    pose = pose_numbers(joints, frame or arm.frame, arm)
    return torch.cat((pose, gripper[..., None].to(pose)), dim=-1)


def pose_numbers(joints: Tensor, frame: str, arm: Arm) -> Tensor:
    """Map joints (..., j) in rad to position (m, base frame) and rotation (first two rows) of a frame, (..., 9)."""
    position, matrix = arm.forward(joints, frame)
    return torch.cat((position, from_matrix(matrix, "6d")), dim=-1)
