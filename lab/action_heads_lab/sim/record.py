"""Record demonstrations of a scripted expert, without images, in worker processes.

Noise in the style of DART (Laskey et al. 2017) disturbs the executed actions but not the recorded ones, so that
demonstrations show how to recover from deviations. Only successful episodes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads._util.extras import missing, remedy
from action_heads._util.machine import cores
from action_heads._util.progress import progress_bar
from action_heads.io import drafts, locks
from action_heads_lab.sim import libero_files, mimicgen
from action_heads_lab.sim.arm import MAX_STEP, MAX_TURN, Arm, OutOfSteps
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.frames import Pose, rotation_from_6d, rotation_to_6d
from action_heads_lab.sim.suites import make
from action_heads_lab.sim.tasks import STARTS, get_recorded, get_task
from action_heads_lab.sim.workers import Workers

SEEDS = STARTS  # recording `seed` uses episode seeds from SEEDS * (seed + 1) on; those below SEEDS are for rollouts
HOLD = 12  # ticks (0.6 s) of one disturbance; shorter ones average out before they move the arm


def record(
    task: str,
    episodes: int,
    seed: int = 0,
    noise: float | None = None,
    workers: int | None = None,
    path: str | Path | None = None,
) -> Demonstrations:
    """Record successful demonstrations of a task's expert.

    The result does not depend on `workers`. Worker processes are spawned, so a script that calls this needs
    `if __name__ == "__main__":`.

    Args:
        task: the name of a task.
        episodes: number of successful episodes.
        seed: seed of the recording.
        noise: standard deviation of the disturbance, as a fraction of the largest step (5 cm per tick). Default: that
            of the task.
        workers: number of simulation processes. Default: one per core.
        path: an .npz file to save to. If it already holds this recording, it is loaded instead. It is written at the
            end in one piece, so an interrupted recording leaves no file.

    Raises:
        ValueError: an argument is out of range, or `path` holds another recording.
        RuntimeError: the expert fails too often.
    """
    row = get_recorded(task)
    noise = row.noise if noise is None else float(noise)
    if episodes < 1 or noise < 0 or seed < 0:
        raise ValueError(f"need episodes >= 1, noise >= 0, seed >= 0; got {episodes=}, {noise=}, {seed=}")
    if path is None:
        check_simulator(task)
        return together(_record_episodes(task, episodes, seed, noise, workers), task, noise)
    with locks.held_beside(path, remedy="give another path"):
        if drafts.exists(path):
            return _reuse(Path(path), task, episodes, seed, noise)
        check_simulator(task)
        demonstrations = together(_record_episodes(task, episodes, seed, noise, workers), task, noise)
        demonstrations.save(path)
        return demonstrations


def check_simulator(task: str) -> None:
    """Check that the simulation of a task is installed, before worker processes start.

    Raises:
        ImportError: a package is not installed. The message says how to install it.
        FileNotFoundError: LIBERO's assets are missing.
    """
    if lacking := missing("sim"):
        raise ImportError(f"the task {task} needs {', '.join(lacking)}, which is not installed. {remedy('sim')}")
    suite = get_task(task).suite
    if suite == "mimicgen":
        mimicgen.check()
    if suite == "libero":
        libero_files.check()


def _reuse(path: Path, task: str, episodes: int, seed: int, noise: float) -> Demonstrations:
    found = Demonstrations.load(path)
    has = (found.task, len(found.seed), int(found.seed[0]) // SEEDS - 1, found.noise)
    if has != (task, episodes, seed, noise):
        raise ValueError(
            f"{path} holds another recording: its (task, episodes, seed, noise) is {has}, expected "
            f"{(task, episodes, seed, noise)}. Delete it, or choose another path"
        )
    return found


@dataclass(frozen=True)
class Episode:
    """The n ticks of one seed, with the dtypes of `Demonstrations`."""

    seed: int
    success: bool
    observation: np.ndarray  # (n, o)
    action: np.ndarray  # (n, 10)
    joint_position: np.ndarray  # (n, j) of the robot's j joints


def together(episodes: Sequence[Episode], task: str, noise: float) -> Demonstrations:
    """Concatenate episodes."""
    return Demonstrations(
        observation=np.concatenate([episode.observation for episode in episodes]),
        action=np.concatenate([episode.action for episode in episodes]),
        joint_position=np.concatenate([episode.joint_position for episode in episodes]),
        episode_length=np.array([len(episode.action) for episode in episodes]),
        seed=np.array([episode.seed for episode in episodes]),
        task=task,
        noise=noise,
    )


def _record_episodes(task: str, episodes: int, seed: int, noise: float, workers: int | None) -> list[Episode]:
    """Record the first seeds that succeed, independently of the order in which workers finish."""
    first, most = SEEDS * (seed + 1), min(SEEDS, 20 + 10 * episodes)
    kept, later, following = [], {}, 0  # later: episodes that arrived before those of smaller seeds
    with (
        Workers(min(cores() if workers is None else workers, episodes), Recorder, task, noise) as pool,
        progress_bar(total=episodes, desc=f"recording {task}") as bar,
    ):
        for worker in range(len(pool)):
            pool.send(worker, first + worker)
        sent = len(pool)
        while len(kept) < episodes:
            for worker in pool.ready():
                episode = pool.receive(worker)
                later[episode.seed] = episode
                pool.send(worker, first + sent)
                sent += 1
            while first + following in later and len(kept) < episodes:
                episode = later.pop(first + following)
                following += 1
                bar.set_postfix(tries=following, refresh=False)  # first, since `update` prints both
                if episode.success:
                    kept.append(episode)
                    bar.update()
            if following >= most and len(kept) < episodes:
                raise RuntimeError(
                    f"the {task} expert succeeded in {len(kept)} of {following} tries. Lower the noise ({noise})"
                )
    return kept


class Recorder:
    """A recorder in a worker process, which maps a seed to an episode."""

    def __init__(self, task: str, noise: float):
        self.sim, self.noise = make(task), noise

    def __call__(self, seed: int) -> Episode:
        return run_expert(self.sim, seed, self.noise)


def run_expert(sim: Sim, seed: int, noise: float = 0.0, before_step: Callable[[], None] = lambda: None) -> Episode:
    """Reset to `seed`, run the expert of the task, and return every tick of it."""
    sim.reset(seed)
    rng = np.random.default_rng(seed)
    observations, actions, joints = [], [], []
    push = np.zeros(6)

    def execute(action):
        nonlocal push
        if len(actions) % HOLD == 0:  # undisturbed half of the time; rotations are disturbed less
            push = noise * rng.normal(size=6) * [1, 1, 1, 0.3, 0.3, 0.3] * rng.integers(2)
        before_step()
        observations.append(sim.observe())
        actions.append(action)  # the action of the expert, without the noise
        joints.append(sim.joint_position)
        sim.step(disturb(action, sim.tcp, push) if noise else action)

    with suppress(OutOfSteps):
        sim.task.expert(Arm(sim, execute, sim.task.expert_steps))
    return Episode(
        seed,
        sim.success(),
        np.array(observations, np.float32),
        np.array(actions, np.float32),
        np.array(joints, np.float32),
    )


def disturb(action: np.ndarray, tcp: Pose, push: np.ndarray) -> np.ndarray:
    """Return the target (10,) moved by `push` (6,), in units of the largest step and turn, and clipped to them."""
    R = rotation_from_6d(action[3:9])
    step = (action[:3] - tcp.p) / MAX_STEP
    turn = Rotation.from_matrix(R @ tcp.R.T).as_rotvec() / MAX_TURN
    step, turn = np.clip(step + push[:3], -1, 1), np.clip(turn + push[3:], -1, 1)
    R = Rotation.from_rotvec(turn * MAX_TURN).as_matrix() @ tcp.R
    return np.concatenate([tcp.p + step * MAX_STEP, rotation_to_6d(R), action[9:]])
