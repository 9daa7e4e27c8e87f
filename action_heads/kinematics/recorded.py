"""Recorded Panda motion: 2.2 hours from three public sources, cut into chunks.

Axes: `n` chunks asked for, `h` horizon, `N` steps of the whole recording, 7 joints. Units: rad, 15 Hz steps.
Sources, licences and credit: data/README.md beside this file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

RATE_HZ = 15.0
HELD_OUT = 0.05  # share of each source's episodes
SPLITS = ("train", "held_out", "all")


@dataclass(frozen=True)
class RecordedChunks:
    """Every window of `horizon` steps within one episode, gathered when asked for.

    Neighbouring windows share all but one step, so only their starts are kept: 5 MB in all instead of 56 MB.
    """

    joints: Tensor  # (N, 7) rad
    gripper: Tensor  # (N,) -1 open, +1 closed
    starts: Tensor  # (windows,) first step of each window
    horizon: int
    episodes: tuple[str, ...]  # "source/name" of every episode used

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Tensor | int | slice) -> tuple[Tensor, Tensor]:
        """Windows by index (n,) -> joints (n, h, 7), gripper (n, h); a plain int gives (h, 7), (h,)."""
        steps = self.starts[index][..., None] + torch.arange(self.horizon, device=self.starts.device)
        return self.joints[steps], self.gripper[steps]

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """`n` windows drawn with replacement -> joints (n, h, 7), gripper (n, h)."""
        return self[torch.randint(len(self), (n,), generator=generator, device=self.starts.device)]

    def to(self, device: torch.device | str) -> RecordedChunks:
        """The same windows with their data on `device`."""
        joints, gripper, starts = (tensor.to(device) for tensor in (self.joints, self.gripper, self.starts))
        return RecordedChunks(joints, gripper, starts, self.horizon, self.episodes)

    def __repr__(self) -> str:
        return f"RecordedChunks({len(self)} windows of {self.horizon} steps from {len(self.episodes)} episodes)"


def recorded_chunks(split: str = "train", horizon: int = 16, sources: tuple[str, ...] | None = None) -> RecordedChunks:
    """Chunks of the recordings: split "train", "held_out" or "all"; `sources` keeps only some of the three.

    The split is by episode, so that no window of a held-out episode is ever trained on. An episode belongs to it by the
    hash of its name, a share of 1 in 20 from every source: the same on every machine, in every version.
    A gripper is recorded from 0 open to 1 closed and is cut at 0.5. One source has no gripper (NaN): it counts as open.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(map(repr, SPLITS))}")
    if horizon < 1:
        raise ValueError(f"a horizon of {horizon} steps is not a chunk; it must be at least 1")
    with (resources.files("action_heads.kinematics") / "data/panda_kinematics_15hz.npz").open("rb") as file:
        data = dict(np.load(file, allow_pickle=False))
    known = sorted(set(data["source"].tolist()))
    if unknown := set(sources or ()) - set(known):
        raise ValueError(f"unknown source {', '.join(sorted(unknown))}; the recordings are from {', '.join(known)}")

    held_out = _held_out(data["source"], data["name"])
    chosen = {"train": ~held_out, "held_out": held_out, "all": np.ones_like(held_out)}[split]
    if sources is not None:
        chosen &= np.isin(data["source"], sources)
    starts = [
        np.arange(start, start + length - horizon + 1)
        for start, length, keep in zip(data["episode_start"], data["episode_length"], chosen, strict=True)
        if keep and length >= horizon
    ]
    if not starts:
        longest = data["episode_length"][chosen].max(initial=0)
        raise ValueError(f"no episode holds {horizon} steps: the longest of those chosen has {longest}")
    # A comparison with NaN is False, which leaves an unrecorded gripper open.
    return RecordedChunks(
        joints=torch.from_numpy(_joints(data["joint_position_planes"])),
        gripper=torch.from_numpy(np.where(data["gripper"] > 0.5, 1.0, -1.0).astype(np.float32)),
        starts=torch.from_numpy(np.concatenate(starts)),
        horizon=horizon,
        episodes=tuple(f"{s}/{n}" for s, n in zip(data["source"][chosen], data["name"][chosen], strict=True)),
    )


def _held_out(source: np.ndarray, name: np.ndarray) -> np.ndarray:
    """source, name (episodes,) -> bool (episodes,): within each source, the twentieth with the smallest hashes."""
    held_out = np.zeros(len(name), dtype=bool)
    rank = np.array([hashlib.sha256(f"{s}/{n}".encode()).hexdigest() for s, n in zip(source, name, strict=True)])
    for one in np.unique(source):
        members = np.flatnonzero(source == one)
        count = max(1, round(HELD_OUT * len(members)))
        held_out[members[np.argsort(rank[members])[:count]]] = True
    return held_out


def _joints(planes: np.ndarray) -> np.ndarray:
    """Planes (7, 4, N) uint8 -> joints (N, 7) float32.

    The file keeps the first bytes of all numbers together, then the second bytes and so on: lossless, and a third
    smaller than the floats themselves, because neighbours share their exponents.
    """
    return np.ascontiguousarray(np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<f4")[..., 0].T)
