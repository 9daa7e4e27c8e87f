"""Demonstrations as arrays, their file, and the windows that train a policy.

Axes: n ticks of all episodes, concatenated, e episodes, o observation size, m windows, one for every tick (m = n),
h horizon, c observation_steps * o, j joints of the arm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from action_heads.io import drafts

VERSION = 1


@dataclass(frozen=True)
class Demonstrations:
    """Successful episodes of one task at 20 Hz. Poses are in the robot base frame, see envs.py."""

    observation: np.ndarray  # (n, o) float32, before the action
    action: np.ndarray  # (n, 10) float32, absolute target of the expert
    joint_position: np.ndarray  # (n, j) float32, rad
    episode_length: np.ndarray  # (e,) int64
    seed: np.ndarray  # (e,) int64, `Sim.reset(seed)` restores the start
    task: str
    noise: float  # disturbance of the execution, see record.py

    def __post_init__(self):
        n, e = int(np.sum(self.episode_length)), len(self.episode_length)
        for name, length in (("observation", n), ("action", n), ("joint_position", n), ("seed", e)):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"{name} has shape {np.shape(getattr(self, name))}, but episode_length has {e} episodes with {n} "
                    f"steps in total, so its first axis should be {length}"
                )
        if e == 0 or np.min(self.episode_length) < 1:
            raise ValueError("demonstrations need at least one episode, and each episode at least one step")

    def __len__(self) -> int:
        return len(self.episode_length)

    def __repr__(self) -> str:
        return f"Demonstrations({self.task}: {len(self)} episodes, {len(self.action)} steps, noise {self.noise})"

    def chunks(self, horizon: int = 16, observation_steps: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one window for every tick t: cond (m, c), actions (m, h, 10), is_pad (m, h) bool.

        cond holds the observations t - observation_steps + 1 .. t, oldest first, with the first one repeated before
        the start. actions are t .. t + h - 1, so the first one answers the newest observation. The last one is repeated
        after the end, where is_pad is true. A window never extends into another episode.
        """
        length = np.asarray(self.episode_length)
        start = np.repeat(np.cumsum(length) - length, length)[:, None]  # (m, 1) first tick of the window's episode
        end = np.repeat(np.cumsum(length), length)[:, None]
        now = np.arange(len(self.action))[:, None]
        past = np.maximum(now + np.arange(1 - observation_steps, 1), start)
        ahead = now + np.arange(horizon)
        cond = self.observation[past].reshape(len(now), -1)
        return cond, self.action[np.minimum(ahead, end - 1)], ahead >= end

    def save(self, path: str | Path) -> None:
        """Save as .npz, in one piece."""
        with drafts.drafted(path) as draft, open(draft, "wb") as file:
            np.savez(file, version=VERSION, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Demonstrations:
        """Load a file of `save`. Raises ValueError if it is of another kind or version."""
        names = [field.name for field in fields(cls)]
        with np.load(path, allow_pickle=False) as file:
            missing = sorted({"version", *names} - set(file.files))
            if missing:
                raise ValueError(f"{path} is not a file of demonstrations, since it lacks {', '.join(missing)}")
            if file["version"] != VERSION:
                raise ValueError(f"{path} has version {file['version']}, not {VERSION}. Record it again")
            values = {name: file[name] for name in names}
        return cls(**values | {"task": str(values["task"]), "noise": float(values["noise"])})
