"""What differs from family to family: tasks, demonstrations, and where a policy is tried."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock  # huggingface_hub and torch bring it
from torch import Tensor

from action_heads import files
from action_heads.reproduce.config import Run
from action_heads.sim.demonstrations import Demonstrations
from action_heads.sim.envs import CONTROL_HZ
from action_heads.sim.record import SEEDS, record
from action_heads.sim.tasks import TASKS, get_task

Samples = tuple[Tensor, Tensor, Tensor]  # conditions (n c), actions (n h a), is_pad (n h)


class Family(Protocol):
    """A family of tasks."""

    tasks: tuple[str, ...]

    def effort(self, run: Run) -> Run:
        """The run with the demonstrations and steps that its task wants."""
        ...

    def samples(self, run: Run, work: Path, horizon: int) -> Samples:
        """What Stage 2 trains on."""
        ...

    def evaluations(self, run: Run) -> list[tuple[str, list[int]]]:
        """(task, seeds of episodes)."""
        ...

    def motion(self, run: Run, work: Path) -> str:
        """The motion of the demonstrations of all tasks, as a source of data for Stage 1."""
        ...

    def versions(self) -> dict[str, str]:
        """Of what simulates."""
        ...


class Robosuite:
    """Eight tasks of robosuite from PyPI, on states, demonstrated by the scripted experts of `action_heads.sim`."""

    tasks = tuple(TASKS)
    demos, steps, lift_steps = 100, 2000, 600  # what a run of a few minutes on one core affords

    def effort(self, run: Run) -> Run:
        return replace(run, demos=self.demos, steps=self.lift_steps if run.task == "Lift" else self.steps)

    def recording(self, run: Run, work: Path, workers: int = 1) -> Demonstrations:
        """Made at the first call, shared by all runs of the task and by all processes."""
        path = work / "recordings" / f"{run.task}-{run.demos}.npz"
        with self._once(path):
            return record(run.task, run.demos, workers=workers, path=path)

    def samples(self, run: Run, work: Path, horizon: int) -> Samples:
        cond, actions, is_pad = self.recording(run, work).chunks(horizon)
        return torch.from_numpy(cond), torch.from_numpy(actions), torch.from_numpy(is_pad)

    def evaluations(self, run: Run) -> list[tuple[str, list[int]]]:
        """Starts that no recording knows: the same in all modes of a seed, others for another seed."""
        get_task(run.task)
        drawn = np.random.default_rng(run.seed).choice(SEEDS, run.episodes, replace=False)
        return [(run.task, drawn.tolist())]

    def motion(self, run: Run, work: Path) -> str:
        path = work / "recordings" / f"robosuite-{run.demos}.npz"
        with self._once(path):
            if not path.exists():
                recordings = [self.recording(replace(run, task=task), work) for task in self.tasks]
                save_motion(recordings, path)
        return f"npz:{path}?rate=native"

    @staticmethod
    def _once(path: Path) -> FileLock:
        """Several processes may want to make the same file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(f".{path.name}.lock"))

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("robosuite", "mujoco", "numpy")}


def save_motion(recordings: Sequence[Demonstrations], path: Path) -> None:
    """Joints and gripper of all recordings as one .npz for Stage 1, see docs/data.md."""
    length = np.concatenate([recording.episode_length for recording in recordings])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        joint_position=np.concatenate([recording.joint_position for recording in recordings]),
        gripper=np.concatenate([(recording.action[:, 9] > 0).astype(np.float32) for recording in recordings]),
        episode_length=length,
        episode_start=np.cumsum(length) - length,
        rate_hz=float(CONTROL_HZ),
    )
    files.write_together(path.parent, {path.name: buffer.getvalue()})


FAMILIES: dict[str, Family] = {"robosuite": Robosuite()}


def family_of(run: Run) -> Family:
    return FAMILIES[run.family]
