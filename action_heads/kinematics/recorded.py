"""Recorded Panda motion: 2.2 hours from three public sources.

Axes: `N` steps of the whole recording, `E` episodes, 7 joints. Units: rad, 15 Hz steps.
Sources, licences and credit: data/README.md beside this file.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import torch

from action_heads.kinematics.panda import PANDA
from action_heads.kinematics.trajectories import Trajectories, Windows, chosen

RATE_HZ = 15.0
FILE = "data/panda_kinematics_15hz.npz"


def recorded_trajectories() -> Trajectories:
    """Return the bundled recordings.

    A gripper is recorded from 0 open to 1 closed and is cut at 0.5. One source has no gripper (NaN): it counts as open.
    """
    with (resources.files("action_heads.kinematics") / FILE).open("rb") as file:
        data = dict(np.load(file, allow_pickle=False))
    return Trajectories(
        joints=torch.from_numpy(_joints(data["joint_position_planes"])),
        poses=None,
        # A comparison with NaN is False, which leaves an unrecorded gripper open.
        gripper=torch.from_numpy(np.where(data["gripper"] > 0.5, 1.0, -1.0).astype(np.float32)),
        starts=data["episode_start"],
        lengths=data["episode_length"],
        names=tuple(data["name"].tolist()),
        corpora=tuple(data["source"].tolist()),
        rate_hz=RATE_HZ,
        arm=PANDA,
        content=hashlib.sha256(data["joint_position_planes"]).hexdigest()[:32],
    )


def recorded_chunks(split: str = "train", horizon: int = 16, sources: tuple[str, ...] | None = None) -> Windows:
    """Return windows of the bundled recordings for a split, "train", "held_out" or "all", from all or some sources."""
    recordings = recorded_trajectories()
    episodes = chosen(recordings, split, horizon)
    if sources is not None:
        known = sorted(set(recordings.corpora))
        if unknown := set(sources) - set(known):
            raise ValueError(f"unknown source {', '.join(sorted(unknown))}; the recordings are from {', '.join(known)}")
        episodes &= np.isin(recordings.corpora, sources)
    return Windows(recordings, horizon, episodes)


def _joints(planes: np.ndarray) -> np.ndarray:
    """Return joints (N, 7) float32 from planes (7, 4, N) uint8.

    The file keeps the first bytes of all numbers together, then the second bytes and so on: lossless, and a third
    smaller than the floats themselves, because neighbours share their exponents.
    """
    return np.ascontiguousarray(np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<f4")[..., 0].T)
