"""Roll out a policy: episodes run in worker processes, and the policy answers all of them in one batch.

Axes: b episodes that need a chunk, o observation size, s observations of a `Sight`, h horizon of the policy.

All episodes execute their chunks, and then the policy is called once for all of them. So the batches, and with a seeded
policy the result, are the same in every run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.machine import cores
from action_heads._util.progress import progress_bar
from action_heads_lab.sim.envs import ACTION_SIZE
from action_heads_lab.sim.interval import wilson
from action_heads_lab.sim.observations import STATES, Sight
from action_heads_lab.sim.rollout_worker import Report, Stage, Start, stack
from action_heads_lab.sim.tasks import get_task
from action_heads_lab.sim.video import write_grid
from action_heads_lab.sim.workers import Workers

# cond (b, 2 * o) float32, or observations of a `Sight` by name, each (b, s, ...) -> actions (b, h, 10), h >= execute
Policy = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Rollouts:
    """The outcome of e episodes, in the order of their seeds."""

    task: str
    success: np.ndarray  # (e,) bool
    length: np.ndarray  # (e,) ticks until success or failure, or the limit of the task
    seed: np.ndarray  # (e,)
    policy_seconds: float  # wall time inside the policy
    environment_seconds: float  # wall time of everything else: resets, physics, images
    # (e,) bool: ended early without success, as in two_cubes when the other cube is lifted
    failed: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def rate(self) -> float:
        """The success rate."""
        return float(np.mean(self.success))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the success rate.

        It is about 40 percentage points wide for 20 episodes, so use 50 or more to compare policies.
        """
        return wilson(int(np.sum(self.success)), len(self.success))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.task}: {np.sum(self.success)} of {len(self.success)} (95 % interval {low:.0%} to {high:.0%})"


def rollout(
    task: str,
    policy: Policy,
    seeds: Iterable[int] = range(50),
    execute: int = 8,
    batch: int = 16,
    workers: int | None = None,
    video: str | Path | None = None,
    film: int = 4,
    progress: bool = True,
    description: str | None = None,
    sight: Sight | None = None,
) -> Rollouts:
    """Roll out `policy` once from every seed.

    An episode ends at success, at failure (see `Sim.failed`), or after the `rollout_steps` of the task. Worker
    processes are spawned, so a script that calls this needs `if __name__ == "__main__":`.

    Args:
        task: the name of a task.
        policy: function of cond (b, 2 * o) float32, the previous and the newest observation, that returns actions
            (b, h, 10), absolute targets. The first action answers the newest observation. b is at most `batch`.
        seeds: one per episode. Those from 10,000 on are used by recordings, so do not evaluate there.
        execute: number of actions of a chunk that are executed before the policy is called again.
        batch: largest number of episodes that run at once.
        workers: number of simulation processes. Default: one per core, and at most one per episode of the batch.
        video: an .mp4 of the first `film` episodes side by side, with a green border for success and red for failure.
        film: number of episodes in the video.
        progress: show a progress bar.
        description: text of the progress bar. Default: the task.
        sight: observations to give to the policy instead: images, chosen columns, any number of observations.

    Raises:
        ValueError: an argument is out of range, or the policy returns actions of a wrong shape or not finite ones.
    """
    limit = get_task(task).rollout_steps
    by_name = policy if sight else _from_vectors(policy)
    episodes = [Running(int(seed)) for seed in seeds]
    if not episodes or execute < 1 or batch < 1:
        raise ValueError(
            f"expected at least one seed, execute >= 1 and batch >= 1, got {len(episodes)} seeds, {execute=}, {batch=}"
        )
    if video is not None and film < 1:
        raise ValueError(f"the video {video} needs film >= 1, got {film=}. Leave out `video` to film nothing")
    filmed = episodes[:film] if video is not None else []
    waiting, free = deque(episodes), deque(range(min(batch, len(episodes))))
    running: dict[int, Running] = {}  # by slot; slot s lives in worker s % workers
    orders: dict[int, Start | np.ndarray] = {}
    seconds = {"policy": 0.0, "environment": 0.0}

    with (
        Workers(min(cores() if workers is None else workers, len(free)), Stage, task, limit, sight or STATES) as pool,
        progress_bar(total=len(episodes), desc=description or task, disable=not progress) as bar,
    ):
        while waiting or running:
            while waiting and free:
                slot, episode = free.popleft(), waiting.popleft()
                running[slot] = episode
                orders[slot] = Start(episode.seed, film=any(episode is one for one in filmed))
            clock = time.perf_counter()
            reports = _perform(pool, orders)
            seconds["environment"] += time.perf_counter() - clock

            for slot, report in reports.items():
                running[slot].add(report)
                if report.done:
                    del running[slot]
                    free.append(slot)
            over = [episode.success for episode in episodes if episode.done]
            bar.set_postfix(success=f"{sum(over)}/{len(over)}", refresh=False)
            bar.update(len(over) - bar.n)
            if running:
                clock = time.perf_counter()
                actions = _ask(by_name, stack([episode.cond for episode in running.values()]), execute)
                seconds["policy"] += time.perf_counter() - clock
                orders = dict(zip(running, actions, strict=True))
            else:
                orders = {}

    if video is not None:
        write_grid(video, [(np.stack(episode.frames), episode.success) for episode in filmed])
    return Rollouts(
        task,
        success=np.array([episode.success for episode in episodes]),
        length=np.array([episode.length for episode in episodes]),
        seed=np.array([episode.seed for episode in episodes]),
        policy_seconds=seconds["policy"],
        environment_seconds=seconds["environment"],
        failed=np.array([episode.failed for episode in episodes]),
    )


def _from_vectors(policy: Policy) -> Policy:
    """Wrap a policy of cond (b, 2 * o), both states in one vector, as a policy of observations by name."""
    return lambda seen: policy(seen["state"].reshape(len(seen["state"]), -1))


def _ask(policy: Policy, seen: dict[str, np.ndarray], execute: int) -> np.ndarray:
    """Return the checked actions (b, execute, 10) of the policy for observations by name, each (b, s, ...)."""
    actions = np.asarray(policy(seen))
    b = len(next(iter(seen.values())))
    if actions.ndim != 3 or len(actions) != b or actions.shape[1] < execute or actions.shape[2] != ACTION_SIZE:
        raise ValueError(
            f"for {b} episodes the policy returned actions of shape {actions.shape}; expected "
            f"({b}, at least execute={execute}, {ACTION_SIZE}), absolute targets in robot units"
        )
    actions = actions[:, :execute]
    if not np.isfinite(actions).all():
        bad = int((~np.isfinite(actions)).any(axis=(1, 2)).sum())
        raise ValueError(
            f"the policy returned NaN or infinity in {bad} of {len(actions)} chunks. Check whether its training "
            "diverged, or whether a normaliser divides by a range of zero"
        )
    return actions


def _perform(pool: Workers, orders: dict) -> dict:
    """Send orders by slot to the workers, and return their reports by slot."""
    shares = [
        {slot: order for slot, order in orders.items() if slot % len(pool) == worker} for worker in range(len(pool))
    ]
    busy = [worker for worker, share in enumerate(shares) if share]
    for worker in busy:
        pool.send(worker, shares[worker])
    reports = {}
    for worker in busy:
        reports |= pool.receive(worker)
    return dict(sorted(reports.items()))


@dataclass
class Running:
    """The state of one episode in the parent process, from its seed to its outcome."""

    seed: int
    cond: dict[str, np.ndarray] = field(default_factory=dict)  # observations by name, each (s, ...)
    length: int = 0
    success: bool = False
    failed: bool = False
    done: bool = False
    frames: list[np.ndarray] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Add a report of the worker."""
        self.cond, self.length, self.done = report.cond, report.length, report.done
        self.success, self.failed = report.success, report.failed
        self.frames += report.frames
