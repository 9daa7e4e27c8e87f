"""Sources of chunks for Stage 1: the motion of arms, mixed and converted to actions.

Axes: b windows, h horizon, s time steps of a window, j joints, a action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from action_heads._util.paths import path_of
from action_heads.actions.spaces import ActionSpace
from action_heads.data import RATE_HZ, Spec, find_arm, open_windows
from action_heads.io.contents import combined
from action_heads.kinematics import Arm, Motion, Windows, pose_actions, synthetic_chunks
from action_heads.kinematics.statistics import BUNDLED, MotionStatistics, shape_of
from action_heads.kinematics.trajectories import held_out_hash

BOX = (0.05, 1.2)  # half-width in metres of a task's workspace, log-uniform
STEP = (0.004, 0.15)  # for deltas: length in metres of a task's longest step, log-uniform

# Maps a number of windows and a generator to Motion. The same generator state gives the same windows.
Source = Callable[[int, torch.Generator], Motion]

__all__ = ["Mixture", "Motion", "Source", "chunks", "source", "through_a_task", "window"]


class Synthetic:
    """A `Source` of endless minimum-jerk motion of an arm.

    The spec names an arm (`panda`, or the path of a URDF or MJCF file) or statistics that shape the motion (`droid`, or
    the path of a file that `action-heads statistics` wrote).
    """

    def __init__(self, spec: Spec, steps: int):
        self.steps, self.rate_hz = steps, spec.number("rate", RATE_HZ)
        self.statistics, self.shape = None, None
        if spec.where in BUNDLED or spec.where.lower().endswith(".json"):
            self.statistics = MotionStatistics.load(spec.where)
            self.arm = _arm_of(self.statistics, spec)
            self.shape = shape_of(self.statistics, self.arm)
        else:
            self.arm = find_arm(spec.where, spec.options.get("tip"))

    @property
    def content(self) -> str:
        """Identify the arm's file and the statistics."""
        return combined([self.arm.name, self.arm.frame, self.statistics and self.statistics.hash])

    def __call__(self, n: int, generator: torch.Generator) -> Motion:
        joints, gripper = synthetic_chunks(n, self.steps, self.rate_hz, generator, arm=self.arm, shape=self.shape)
        return Motion(pose_actions(joints, gripper, arm=self.arm), joints)


def _arm_of(statistics: MotionStatistics, spec: Spec) -> Arm:
    """Return the arm of statistics, up to the link whose poses they are of."""
    tip = spec.options.get("tip")
    if statistics.arm == "panda":
        return find_arm("panda", tip)
    arm = find_arm(str(path_of(statistics.arm, path_of(spec.where))), tip or statistics.frame)
    if statistics.frame not in (None, arm.frame):
        raise ValueError(
            f"{spec}: tip is {arm.frame}, but the statistics are of poses of {statistics.frame}. Leave out tip=, or "
            f"measure the statistics of that link with `action-heads statistics --data '...?tip={arm.frame}'`"
        )
    return arm


def source(name: str, steps: int, split: str = "train") -> Synthetic | Windows:
    """Return a source of windows by its spec, such as `synthetic:panda` or `lerobot:lerobot/droid_1.0.1`."""
    spec = Spec.parse(name)
    return Synthetic(spec, steps) if spec.kind == "synthetic" else open_windows(spec, steps, split)


class Mixture:
    """A `Source` that mixes several sources. Each gives its share of every batch.

    Attributes:
        joints: number of joints, or None if the sources have different numbers or one has only poses. A batch then has
            no joints.
        rate_hz: time steps per second, which all sources share.
        contents: a hash of each source's files, by its spec.
        record: one entry per source for the head's record: its spec and share, the size of a recording, and a hash of
            its held-out episodes.
    """

    def __init__(self, names: Sequence[str], steps: int, split: str = "train"):
        if not names:
            raise ValueError("no data source was given. Name at least one, such as synthetic:panda")
        specs = [Spec.parse(name) for name in names]
        self.sources = [source(name, steps, split) for name in names]
        self.shares = _shares(specs)
        self.contents = {str(spec): s.content for spec, s in zip(specs, self.sources, strict=True)}
        rates = {str(spec): _rate(s) for spec, s in zip(specs, self.sources, strict=True)}
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"{spec} at {rate:g} Hz" for spec, rate in rates.items())
            raise ValueError(f"sources of different rates cannot be mixed: {listed}. Give all of them the same ?rate=")
        self.rate_hz = next(iter(rates.values()))
        widths = {_joints(s) for s in self.sources}
        self.joints = widths.pop() if len(widths) == 1 else None
        self.record = [
            {"source": str(spec), "share": round(float(share), 4), **_size(s)}
            for spec, share, s in zip(specs, self.shares, self.sources, strict=True)
        ]

    def split(self, n: int) -> list[int]:
        """Return how many of n windows each source gives."""
        return _split(self.shares, n)

    def __call__(self, n: int, generator: torch.Generator) -> Motion:
        parts = [s(share, generator) for s, share in zip(self.sources, self.split(n), strict=True) if share]
        poses = torch.cat([part.poses for part in parts])
        return Motion(poses, torch.cat([p.joints for p in parts if p.joints is not None]) if self.joints else None)


def check_shares(names: Sequence[str], n: int) -> None:
    """Refuse a source whose share of n windows is 0. All batches are split alike, so it would never be drawn."""
    specs = [Spec.parse(name) for name in names]
    for spec, count in zip(specs, _split(_shares(specs), n), strict=True):
        if not count:
            total = sum(other.weight for other in specs)
            raise ValueError(
                f"{spec} would never be drawn: its weight is {spec.weight:g} of {total:g} in total, which is less than "
                f"one of the {n} chunks that a process draws per batch. Give it a larger weight, as in "
                f"{spec.kind}:...@2, use a larger --batch-size, or leave it out"
            )


def _shares(specs: Sequence[Spec]) -> np.ndarray:
    """Return the weights (sources,) as shares that sum to 1."""
    return np.array([spec.weight for spec in specs]) / sum(spec.weight for spec in specs)


def _split(shares: np.ndarray, n: int) -> list[int]:
    """Split n by shares: round down, then give the rest to the largest remainders."""
    exact = shares * n
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return counts.tolist()


def _rate(source: Synthetic | Windows) -> float:
    return source.trajectories.rate_hz if isinstance(source, Windows) else source.rate_hz


def _joints(source: Synthetic | Windows) -> int | None:
    if isinstance(source, Windows):
        table = source.trajectories.joints
        return None if table is None else table.shape[1]
    return len(source.arm)


def _size(source: Synthetic | Windows) -> dict[str, float | str]:
    if not isinstance(source, Windows):
        return {"statistics_hash": source.statistics.hash} if source.statistics else {}
    steps = len(source) + (source.steps - 1) * len(source.episodes)
    return {
        "episodes": len(source.episodes),
        "windows": len(source),
        "hours": round(steps / _rate(source) / 3600, 3),
        "held_out_hash": held_out_hash(source.trajectories, source.steps),
    }


def window(space: ActionSpace, horizon: int) -> int:
    """Return the number of time steps of motion that a chunk needs: a delta also needs the pose it starts from."""
    return horizon + (space.mode == "delta")


def chunks(motion: Motion, space: ActionSpace) -> tuple[Tensor, Tensor | None]:
    """Return windows as actions of a space (b h a), and the signal of joints and gripper (b, (j + 1)·h) or None."""
    poses, joints = motion
    gripper = poses[..., -1:]
    if space.mode == "delta":
        actions = space.to_delta(poses[:, 1:], poses[:, 0, : space.pose_dim])
        joints, gripper = None if joints is None else joints[:, 1:], gripper[:, 1:]
    else:
        actions = poses
    return actions, None if joints is None else torch.cat([joints, gripper], dim=-1).flatten(1)


def through_a_task(actions: Tensor, space: ActionSpace, generator: torch.Generator) -> Tensor:
    """Return actions (b h a) whose positions are normalised by the workspace of a random task.

    A task normalises positions by its own workspace, 10 cm or 1 m wide, and deltas by its own longest step.
    Compared with motion at the scale of the whole arm, this enlarges a task's motion several times. Stage 1 therefore
    trains the head on all scales.
    """
    p = actions[..., space.position_mask]
    smallest, largest = BOX if space.mode == "absolute" else STEP
    box = smallest * torch.exp(torch.rand((len(p), 1, 1), generator=generator) * math.log(largest / smallest))
    if space.mode == "absolute":
        low, high = p.amin(1, keepdim=True), p.amax(1, keepdim=True)
        half = torch.maximum(box, (high - low).amax(-1, keepdim=True) / 2)
        # The chunk lies anywhere inside the box, not at its centre.
        room = 1 - (high - low) / (2 * half)
        centre = (2 * torch.rand(low.shape, generator=generator) - 1) * room
        seen = (p - (low + high) / 2) / half + centre
    else:
        seen = p / torch.maximum(box, p.abs().amax((1, 2), keepdim=True))
    actions = actions.clone()
    actions[..., space.position_mask] = seen
    return actions
