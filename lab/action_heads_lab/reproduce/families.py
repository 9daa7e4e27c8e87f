"""Families of tasks: their demonstrations, and the starts of their evaluations."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from action_heads.io import drafts, files, locks
from action_heads.io.contents import sampled_all
from action_heads_lab.reproduce.assets import OFFICIAL, TESTED, of_libero, of_mimicgen
from action_heads_lab.reproduce.config import EXPERTS, EYES, Place, Run
from action_heads_lab.sim import libero_tasks, mimicgen
from action_heads_lab.sim.dataset import save_dataset
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import CONTROL_HZ
from action_heads_lab.sim.record import SEEDS, record
from action_heads_lab.sim.tasks import TASKS

WAIT = 0.2  # seconds between two looks at a lock
Samples = tuple[Tensor, Tensor, Tensor]  # conditions (n c), actions (n h a), is_pad (n h)


class Family:
    """A family of tasks, demonstrated by the scripted experts. This class is robosuite, others derive from it."""

    tasks: tuple[str, ...] = tuple(TASKS)
    unit = "task"  # what one policy is trained for, as tables call it
    packages: tuple[str, ...] = ("robosuite", "mujoco", "numpy")
    demos, steps = 100, 2000  # enough for a run of a few minutes on one core
    checkpoints = 1  # only the last
    official: str | None = None  # the demonstrations of the paper, a value of `Run.data`
    assets = ""  # those that `action-heads setup` installs, a value of `Run.assets`

    def effort(self, run: Run) -> Run:
        """Return the run with the demonstrations, training steps, checkpoints and assets for its task."""
        steps = 600 if run.task == "Lift" else self.steps
        demos = self.demos if run.data == EXPERTS else 0
        return replace(run, demos=demos, steps=steps, checkpoints=self.checkpoints, assets=self.assets)

    def installed(self) -> str:
        """Return the assets that are installed here, a value of `Run.assets`."""
        return self.assets

    def subtasks(self, run: Run) -> list[str]:
        """Return the tasks of one policy: the task of the run, or all tasks of a suite."""
        return [run.task]

    def recording(self, task: str, run: Run, place: Place) -> Demonstrations:
        """Return the demonstrations of a task. They are recorded once, and shared by all runs and processes."""
        path = self.recording_path(task, run, place.work)
        with once(path):
            return record(task, run.demos, workers=place.workers, path=path)

    def recording_path(self, task: str, run: Run, work: Path) -> Path:
        """Return the path of the demonstrations of a task."""
        return work / "recordings" / f"{task.replace('/', '-')}-{run.demos}{self._other(run)}.npz"

    def _other(self, run: Run) -> str:
        """Return the end of a recording's name, which tells other assets than those that setup installs apart."""
        return f"-{run.assets}" if run.assets not in ("", self.assets) else ""

    def contents(self, run: Run, place: Place) -> dict[str, str]:
        """Return a hash of each recording of the experts that a run reads, by its name, as far as they are there."""
        tasks = self.subtasks(run) if run.data == EXPERTS else []
        paths = {path.name: path for path in (self.recording_path(task, run, place.work) for task in tasks)}
        return dict(sampled_all({name: path for name, path in paths.items() if path.exists()}))

    def image_data(self, run: Run, place: Place) -> str:
        """Return the recording with images to train on, as `action-heads adapt --data` takes it.

        The dataset of the experts is made at the first call.
        """
        if run.data != EXPERTS:
            return run.recording
        eyes = EYES[run.family]
        folder = (
            place.work / "recordings" / f"{run.task.replace('/', '-')}-{run.demos}-{eyes['size']}{self._other(run)}"
        )
        with once(folder):
            if not drafts.exists(folder):
                recordings = [self.recording(task, run, place) for task in self.subtasks(run)]
                save_dataset(recordings, folder, eyes["cameras"], eyes["size"], place.workers)
        return f"lerobot:{folder}"

    def samples(self, run: Run, place: Place, horizon: int) -> Samples:
        """Return the conditions, actions and padding that Stage 2 trains on."""
        parts = []
        for task in self.subtasks(run):
            cond, actions, is_pad = self.recording(task, run, place).chunks(horizon)
            parts.append((self.condition(cond, task), actions, is_pad))
        cond, actions, is_pad = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
        return cond, actions, is_pad

    def condition(self, observed: np.ndarray, task: str) -> np.ndarray:
        """Return the condition (n, c) of a policy from two observations (n, 2 * o) and the task."""
        return observed

    def evaluations(self, run: Run) -> list[tuple[str, list[int]]]:
        """Return (task, seeds) of the episodes: none of a recording, the same in all modes, and others per seed."""
        drawn = np.random.default_rng(run.seed).choice(SEEDS, run.episodes, replace=False)
        return [(run.task, drawn.tolist())]

    def motion(self, run: Run, work: Path) -> Path:
        """Return the path of the motion of all demonstrations, an .npz for Stage 1; see `make_motion`."""
        return work / "recordings" / f"{run.family}-{run.demos}{self._other(run)}.npz"

    def make_motion(self, run: Run, place: Place) -> None:
        """Write the motion of all demonstrations if it does not exist, and record the demonstrations it needs."""
        path = self.motion(run, place.work)
        with once(path):
            if not path.exists():
                tasks = [part for task in self.tasks for part in self.subtasks(replace(run, task=task))]
                save_motion([self.recording(task, run, place) for task in tasks], path)

    def versions(self) -> dict[str, str]:
        """Return the versions of the simulation's packages."""
        return {name: version(name) for name in self.packages}


class MimicGen(Family):
    """The eight MimicGen tasks of the paper. Every checkpoint is rolled out, as in published results."""

    tasks = tuple(mimicgen.TASKS)
    checkpoints = 5
    official = "lerobot:JianZhou0420/DAH_mimicgen_{task}_alldemos"
    assets = TESTED

    def installed(self) -> str:
        return of_mimicgen()


class Libero(Family):
    """LIBERO-Object, -Spatial, -Goal and -10: one policy for the ten tasks of a suite, given the task as one-hot."""

    tasks = ("libero_object", "libero_spatial", "libero_goal", "libero_10")
    unit = "suite"
    packages = (*Family.packages, "hf-libero")
    demos, steps = 50, 4000
    official = "lerobot:JianZhou0420/libero_{task}_alldemos_full"
    assets = OFFICIAL

    def installed(self) -> str:
        return of_libero()

    def subtasks(self, run: Run) -> list[str]:
        return libero_tasks.of_suite(run.task)

    def condition(self, observed: np.ndarray, task: str) -> np.ndarray:
        one_hot = np.zeros((len(observed), 10), np.float32)
        one_hot[:, int(task.partition("/")[2])] = 1
        return np.concatenate([observed, one_hot], axis=1)

    def evaluations(self, run: Run) -> list[tuple[str, list[int]]]:
        """Return the init states of the suite in their order, as in published results: 50 per task."""
        return [(task, list(range(run.episodes))) for task in self.subtasks(run)]


@contextmanager
def once(path: Path) -> Iterator[None]:
    """Lock a file or folder while it is made, and wait as long as another process or thread makes it."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locks.held_beside(path))
                break
            except locks.InUse:
                time.sleep(WAIT)
        yield


def save_motion(recordings: Sequence[Demonstrations], path: Path) -> None:
    """Write joints and gripper of all recordings to one .npz for Stage 1, see docs/guides/recordings.md."""
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


FAMILIES: dict[str, Family] = {"robosuite": Family(), "mimicgen": MimicGen(), "libero": Libero()}


def family_of(run: Run) -> Family:
    """Return the family of a run."""
    return FAMILIES[run.family]
