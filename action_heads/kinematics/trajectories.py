"""Recorded motion as one long table of steps, cut into windows when asked for.

Axes: `n` windows asked for, `s` steps of a window, `N` steps of the whole table, `E` episodes, `j` joints.
Units: rad, m; the gripper is -1 open, +1 closed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.synthetic import pose_actions

HELD_OUT = 0.05  # expected share of each corpus's episodes
SPLITS = ("train", "held_out", "all")


class Motion(NamedTuple):
    """Windows of s consecutive steps of an arm's motion."""

    poses: Tensor  # (n s 10) absolute, the layout of `spaces.EE_ABSOLUTE`
    joints: Tensor | None  # (n s j) rad; None where a source only knows poses


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Episodes laid end to end. The tensors may be views of memory-mapped files larger than memory.

    Where joints of a known arm were recorded, they are kept alone: forward kinematics of a gathered window costs less
    than reading its poses would, and gives the frame that the arm's heads are trained for.
    """

    joints: Tensor | None  # (N, j)
    poses: Tensor | None  # (N, 9) position and 6-D rotation; None where the arm's kinematics gives them
    gripper: Tensor  # (N,)
    starts: np.ndarray  # (E,) first step of each episode
    lengths: np.ndarray  # (E,)
    names: tuple[str, ...]  # (E,)
    corpora: tuple[str, ...]  # (E,) what each episode is from: a share of each corpus is held out
    rate_hz: float
    arm: Arm | None = None
    content: str = ""  # identifies what was recorded and how it was converted, the same on any machine

    def __post_init__(self) -> None:
        if self.poses is None and (self.joints is None or self.arm is None):
            raise ValueError("trajectories need poses, or the joints of a known arm")
        keys = Counter(zip(self.corpora, self.names, strict=True))
        if len(keys) < len(self.names):
            (corpus, name), _ = keys.most_common(1)[0]
            raise ValueError(f"episode {name!r} of {corpus} comes twice: names decide the split, so give each its own")

    def __len__(self) -> int:
        return len(self.names)

    def only(self, corpus: str) -> Trajectories:
        """Return the episodes of one corpus. The steps of the others stay in the table, unused."""
        keep = np.array([one == corpus for one in self.corpora], dtype=bool)
        names = tuple(name for name, kept in zip(self.names, keep, strict=True) if kept)
        corpora = (corpus,) * len(names)
        return replace(self, starts=self.starts[keep], lengths=self.lengths[keep], names=names, corpora=corpora)


def held_out(corpora: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return which episodes (E,) are held out: those whose hash lies in the lowest twentieth of all hashes.

    Where that would hold out none of a corpus, the one episode of it with the smallest hash is.
    """
    hashes = [hashlib.sha256(f"{c}/{n}".encode()).hexdigest() for c, n in zip(corpora, names, strict=True)]
    out = np.array([int(text[:8], 16) < HELD_OUT * 2**32 for text in hashes], dtype=bool)
    for one in np.unique(corpora):
        members = np.flatnonzero(np.array(corpora) == one)
        if not out[members].any():
            out[min(members, key=lambda i: hashes[i])] = True
    return out


def chosen(trajectories: Trajectories, split: str, steps: int = 1) -> np.ndarray:
    """Return which episodes (E,) are in a split, "train", "held_out" or "all". Those shorter than `steps` are in none.

    The split is by episode, so that no window of a held-out episode is ever trained on. An episode is held out by the
    hash of its corpus and name alone, on every machine, whatever else was recorded: about 1 in 20.

    A corpus that grows moves no episode, but for one case: where none lies in the lowest twentieth, the episode with
    the smallest hash stands in, and goes back to training once one with a smaller hash is recorded. No episode of the
    training split is ever held out later. Where short episodes are left out, the same holds of those that are left.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(map(repr, SPLITS))}")
    long = trajectories.lengths >= steps
    if split == "all":
        return long
    out = np.zeros(len(trajectories), dtype=bool)
    members = np.flatnonzero(long)
    out[members] = held_out([trajectories.corpora[i] for i in members], [trajectories.names[i] for i in members])
    return out if split == "held_out" else long & ~out


def held_out_hash(trajectories: Trajectories, steps: int = 1) -> str:
    """Return 16 hex digits that identify the held-out episodes, for a head's record."""
    out = np.flatnonzero(chosen(trajectories, "held_out", steps))
    names = sorted(f"{trajectories.corpora[i]}/{trajectories.names[i]}" for i in out)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


class Windows:
    """Every window of `steps` steps within one of some episodes, gathered when asked for: a `Source`.

    Only the number of windows before each episode is kept; neighbouring windows share all but one step.
    """

    def __init__(self, trajectories: Trajectories, steps: int, episodes: np.ndarray | None = None):
        """Take the windows of all episodes, or of those for which `episodes` (E,) is true.

        Episodes shorter than a window hold none.
        """
        if steps < 1:
            raise ValueError(f"a window of {steps} steps is none; it must be at least 1")
        self.trajectories, self.steps = trajectories, steps
        keep = np.ones(len(trajectories), dtype=bool) if episodes is None else episodes
        long = keep & (trajectories.lengths >= steps)
        if not long.any():
            longest = trajectories.lengths.max(initial=0)
            raise ValueError(
                f"no episode of those chosen holds {steps} steps; the longest of all {len(trajectories)} has {longest}"
            )
        self.episodes = tuple(
            f"{c}/{n}" for c, n, k in zip(trajectories.corpora, trajectories.names, long, strict=True) if k
        )
        self._first = torch.from_numpy(trajectories.starts[long].astype(np.int64))
        counts = torch.from_numpy((trajectories.lengths[long] - steps + 1).astype(np.int64))
        self._end = counts.cumsum(0)
        self._shift = self._first - (self._end - counts)  # from a window's number to its first step

    @property
    def content(self) -> str:
        """Identify the recording."""
        return self.trajectories.content

    def __len__(self) -> int:
        return int(self._end[-1])

    def starts(self, index: Tensor) -> Tensor:
        """Return the first step (n,) of each window (n,)."""
        return index + self._shift[torch.searchsorted(self._end, index, right=True)]

    def gather(self, index: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return joints (n s j) and poses (n s 9), as the table has them, and grippers (n s) of windows (n,)."""
        steps = self.starts(index)[:, None] + torch.arange(self.steps)
        table = self.trajectories
        joints = None if table.joints is None else table.joints[steps]
        return joints, None if table.poses is None else table.poses[steps], table.gripper[steps]

    def __getitem__(self, index: Tensor) -> Motion:
        """Return the motion of windows (n,)."""
        joints, poses, gripper = self.gather(index)
        if poses is not None:
            return Motion(torch.cat((poses, gripper[..., None]), dim=-1), joints)
        assert joints is not None
        assert self.trajectories.arm is not None
        return Motion(pose_actions(joints, gripper, arm=self.trajectories.arm), joints)

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Motion:
        """Draw `n` windows with replacement. The same generator state gives the same windows."""
        return self[torch.randint(len(self), (n,), generator=generator)]

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self.steps} steps from {len(self.episodes)} episodes)"
