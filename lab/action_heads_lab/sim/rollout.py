"""Closed-loop evaluation: episodes in worker processes, one network call for all of them.

b  episodes that ask for a chunk     c  2 observations, 2 * o     h  horizon of the policy

All episodes advance in step: everyone executes its chunk, then the policy sees everyone at once. The composition of
each batch is then the same in every run, and with a seeded policy so is the result.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from action_heads._util.machine import cores
from action_heads_lab.sim.envs import ACTION_SIZE
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.rollout_worker import Report, Stage, Start, stack
from action_heads_lab.sim.tasks import get_task
from action_heads_lab.sim.video import write_grid
from action_heads_lab.sim.workers import Workers

# cond (b, c) float32, or what a `Sight` shows by name, each (b, s, ...) -> actions (b, h, 10), h >= execute
Policy = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Rollouts:
    """The outcome of e episodes, in the order of the seeds asked for."""

    task: str
    success: np.ndarray  # (e,) bool
    length: np.ndarray  # (e,) steps until success, or the task's limit
    seed: np.ndarray  # (e,)
    policy_seconds: float  # wall time inside the policy
    environment_seconds: float  # wall time of everything else: resets, physics, pictures

    @property
    def rate(self) -> float:
        return float(np.mean(self.success))

    @property
    def standard_error(self) -> float:
        """Of the rate, binomial. Twenty episodes leave about 0.1: take 50 or more to compare policies."""
        return math.sqrt(self.rate * (1 - self.rate) / len(self.success))

    def __str__(self) -> str:
        percent = f"{100 * self.rate:.0f} ± {100 * self.standard_error:.0f} %"
        return f"{self.task}: {np.sum(self.success)}/{len(self.success)} ({percent})"


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
    """Run `policy` once from every seed. Seeds from 10,000 upwards are those of recordings: do not evaluate there.

    policy    cond (b, 2 * o) float32, the previous and the newest observation -> actions (b, h, 10) absolute targets,
              the first of which answers the newest observation; b is at most `batch` and shrinks towards the end
    execute   how many actions of each chunk are carried out before the policy is asked again
    sight     what the policy is shown instead: pictures, chosen columns, any number of observations
    workers   processes of simulation; default: one a core, at most one an episode of the batch
    video     an .mp4 of the first `film` episodes, side by side; green border success, red failure

    An episode ends at success or after the task's `rollout_steps`. Processes are spawned: a script that calls this
    needs `if __name__ == "__main__":`.
    """
    limit = get_task(task).rollout_steps
    episodes = [Episode(int(seed)) for seed in seeds]
    if not episodes or execute < 1 or batch < 1:
        raise ValueError(f"need a seed, execute >= 1 and batch >= 1; got {len(episodes)} seeds, {execute=}, {batch=}")
    filmed = episodes[:film] if video is not None else []
    waiting, free = deque(episodes), deque(range(min(batch, len(episodes))))
    running: dict[int, Episode] = {}  # by slot; slot s lives in worker s % workers
    orders: dict[int, Start | np.ndarray] = {}
    seconds = {"policy": 0.0, "environment": 0.0}

    with (
        Workers(min(cores() if workers is None else workers, len(free)), Stage, task, limit, sight) as pool,
        tqdm(total=len(episodes), desc=description or task, disable=not progress) as bar,
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
                    bar.update()
            over = [episode.success for episode in episodes if episode.done]
            bar.set_postfix(success=f"{sum(over)}/{len(over)}")
            if running:
                clock = time.perf_counter()
                actions = _ask(policy, _together([running[slot].cond for slot in running]), execute)
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
    )


def _together(conds: list[Any]) -> Any:
    """Of b episodes: (b, c), or by name (b, s, ...)."""
    return stack(conds) if isinstance(conds[0], dict) else np.stack(conds)


def _ask(policy: Policy, cond: Any, execute: int) -> np.ndarray:
    """What the policy answers to cond (b, c), or by name (b, s, ...), checked -> (b, execute, 10)."""
    actions = np.asarray(policy(cond))
    shape = next(iter(cond.values())).shape if isinstance(cond, dict) else cond.shape
    if actions.ndim != 3 or len(actions) != shape[0] or actions.shape[1] < execute or actions.shape[2] != ACTION_SIZE:
        raise ValueError(
            f"for cond {shape} the policy returned {actions.shape}; expected "
            f"({shape[0]}, at least execute={execute}, {ACTION_SIZE}): absolute targets in physical units"
        )
    actions = actions[:, :execute]
    if not np.isfinite(actions).all():
        bad = int((~np.isfinite(actions)).any(axis=(1, 2)).sum())
        raise ValueError(
            f"the policy returned NaN or infinity in {bad} of {len(actions)} chunks. Did the training diverge, or does "
            "a normaliser divide by a range of zero?"
        )
    return actions


def _perform(pool: Workers, orders: dict) -> dict:
    """Every worker carries out the orders for its slots; slot -> order becomes slot -> report."""
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
class Episode:
    """What the parent knows of one episode."""

    seed: int
    cond: Any = None  # (c,), or by name (s, ...), after the first report
    length: int = 0
    success: bool = False
    done: bool = False
    frames: list[np.ndarray] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.cond, self.length, self.success, self.done = report.cond, report.length, report.success, report.done
        self.frames += report.frames
