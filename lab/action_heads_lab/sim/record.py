"""Recording demonstrations of a scripted expert, state only, over worker processes.

DART-style noise (Laskey et al. 2017): what the arm executes is disturbed, what is recorded is not, so that the
demonstrations show how to come back from where a policy may stray. Only successes are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from action_heads._util.extras import missing, remedy
from action_heads._util.machine import cores
from action_heads.io import locks
from action_heads_lab.sim import libero, mimicgen
from action_heads_lab.sim.arm import MAX_STEP, MAX_TURN, Arm, OutOfSteps
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import Sim, make
from action_heads_lab.sim.frames import Pose, rotation_from_6d, rotation_to_6d
from action_heads_lab.sim.tasks import get_task
from action_heads_lab.sim.workers import Workers

SEEDS = 10_000  # recording `seed` draws episodes from SEEDS * (seed + 1) upwards; below SEEDS is for rollouts
HOLD = 12  # steps (0.6 s) for which one disturbance lasts; shorter ones average out before they move the arm


def record(
    task: str,
    episodes: int,
    seed: int = 0,
    noise: float | None = None,
    workers: int | None = None,
    path: str | Path | None = None,
) -> Demonstrations:
    """`episodes` successful demonstrations of the task's expert.

    noise    standard deviation of the disturbance, as a fraction of the largest step (5 cm a step); default: the task's
    workers  processes of simulation; default: one a core
    path     an .npz to keep them in. If it already holds this very recording it is loaded and nothing is run. It is
             written in one piece at the end, so a recording that was killed leaves nothing behind: start it again.

    The result depends on `task, episodes, seed, noise` and not on `workers`. Processes are spawned: a script that calls
    this needs `if __name__ == "__main__":`.
    """
    row = get_task(task)
    noise = row.noise if noise is None else float(noise)
    if episodes < 1 or noise < 0 or seed < 0:
        raise ValueError(f"need episodes >= 1, noise >= 0, seed >= 0; got {episodes=}, {noise=}, {seed=}")
    if path is None:
        check_simulator(task)
        return together(_record_episodes(task, episodes, seed, noise, workers), task, noise)
    with locks.held_beside(path, remedy="give another path"):
        if Path(path).exists():
            return _reuse(Path(path), task, episodes, seed, noise)
        check_simulator(task)
        demonstrations = together(_record_episodes(task, episodes, seed, noise, workers), task, noise)
        demonstrations.save(path)
        return demonstrations


def check_simulator(task: str) -> None:
    """Say in one error what a task's simulation lacks, rather than from every process that is to run it.

    Raises:
        ImportError: a package is not installed. The message says how to install it.
        FileNotFoundError: LIBERO's assets are not there.
    """
    if lacking := missing("sim"):
        raise ImportError(f"the task {task} needs {', '.join(lacking)}, not installed here. {remedy('sim')}")
    suite = get_task(task).suite
    if suite == "mimicgen":
        mimicgen.check()
    if suite == "libero":
        libero.install()


def _reuse(path: Path, task: str, episodes: int, seed: int, noise: float) -> Demonstrations:
    found = Demonstrations.load(path)
    has = (found.task, len(found.seed), int(found.seed[0]) // SEEDS - 1, found.noise)
    if has != (task, episodes, seed, noise):
        raise ValueError(
            f"{path} holds another recording: (task, episodes, seed, noise) = {has}, asked for "
            f"{(task, episodes, seed, noise)}. Delete it or choose another path."
        )
    return found


@dataclass(frozen=True)
class Episode:
    """n steps of one seed; dtypes as in `Demonstrations`."""

    seed: int
    success: bool
    observation: np.ndarray  # (n, o)
    action: np.ndarray  # (n, 10)
    joint_position: np.ndarray  # (n, j) of the robot's j joints


def together(episodes: Sequence[Episode], task: str, noise: float) -> Demonstrations:
    """Episodes end to end."""
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
    """The first `episodes` seeds in a row that succeed, whichever worker is done first."""
    first, most = SEEDS * (seed + 1), min(SEEDS, 20 + 10 * episodes)
    kept, later, following = [], {}, 0  # later: arrived before the seeds in front of them
    with (
        Workers(min(cores() if workers is None else workers, episodes), Recorder, task, noise) as pool,
        tqdm(total=episodes, desc=f"recording {task}") as bar,
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
                if episode.success:
                    kept.append(episode)
                    bar.update()
                bar.set_postfix(tries=following)
            if following >= most and len(kept) < episodes:
                raise RuntimeError(
                    f"the {task} expert succeeded in {len(kept)} of {following} tries; lower the noise ({noise})"
                )
    return kept


class Recorder:
    """Lives in a worker: seed -> Episode."""

    def __init__(self, task: str, noise: float):
        self.sim, self.noise = make(task), noise

    def __call__(self, seed: int) -> Episode:
        return run_expert(self.sim, seed, self.noise)


def run_expert(sim: Sim, seed: int, noise: float = 0.0, before_step: Callable[[], None] = lambda: None) -> Episode:
    """Reset to `seed`, let the task's expert work, and write down every step of it."""
    sim.reset(seed)
    rng = np.random.default_rng(seed)
    observations, actions, joints = [], [], []
    push = np.zeros(6)

    def execute(action):
        nonlocal push
        if len(actions) % HOLD == 0:  # half of the time undisturbed; turns are pushed less than moves
            push = noise * rng.normal(size=6) * [1, 1, 1, 0.3, 0.3, 0.3] * rng.integers(2)
        before_step()
        observations.append(sim.observe())
        actions.append(action)  # what the expert wanted, not what the noise makes of it
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
    """The target (10,) moved by `push` (6,), in units of the largest step and turn, which still bound the result."""
    R = rotation_from_6d(action[3:9])
    step = (action[:3] - tcp.p) / MAX_STEP
    turn = Rotation.from_matrix(R @ tcp.R.T).as_rotvec() / MAX_TURN
    step, turn = np.clip(step + push[:3], -1, 1), np.clip(turn + push[3:], -1, 1)
    R = Rotation.from_rotvec(turn * MAX_TURN).as_matrix() @ tcp.R
    return np.concatenate([tcp.p + step * MAX_STEP, rotation_to_6d(R), action[9:]])
