"""Episodes of a rollout in a worker process.

c  condition of a policy: the previous and the newest observation, 2 * o     s  observations of a `Sight`
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from action_heads_lab.sim.conventions import DIALECTS
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.suites import make

FILM_SIZE = 256  # pixels


@dataclass(frozen=True)
class Start:
    """An order to start an episode. The other kind of order is a chunk of actions (execute, 10)."""

    seed: int
    film: bool


@dataclass(frozen=True)
class Report:
    """The state of an episode after an order."""

    cond: Any  # (c,) float32; with a `Sight` a dict by name, each (s, ...)
    length: int
    success: bool
    failed: bool  # ended before the limit without success, see `Sim.failed`
    done: bool
    frames: list[np.ndarray]  # of the last ticks, each (size, size, 3) uint8


class Stage:
    """The environments of a worker process, each made when it is first needed, with their running episodes."""

    def __init__(self, task: str, limit: int, sight: Sight | None = None):
        self.task, self.limit, self.sight = task, limit, sight
        self.plays: dict[int, Play] = {}

    def __call__(self, orders: dict[int, Start | np.ndarray]) -> dict[int, Report]:
        return {
            slot: self._start(slot, o) if isinstance(o, Start) else self.plays[slot].act(o)
            for slot, o in orders.items()
        }

    def _start(self, slot: int, order: Start) -> Report:
        play = self.plays.get(slot)
        render = order.film or bool(self.sight and self.sight.cameras)
        if play is None or play.sim.can_render != render:  # rendering slows resets, so only if needed
            if play is not None:
                play.sim.close()
            play = self.plays[slot] = Play(self._make(render), self.limit, self.sight)
        return play.start(order.seed, order.film)

    def _make(self, render: bool) -> Sim:
        return make(self.task, render=render, fast=self.sight is None or DIALECTS[self.sight.dialect].fast)


class Play:
    """An environment and its episode. Without a `Sight`, the policy gets the previous and the newest observation."""

    def __init__(self, sim: Sim, limit: int, sight: Sight | None = None):
        self.sim, self.limit, self.sight = sim, limit, sight

    def start(self, seed: int, film: bool = False) -> Report:
        """Start the episode of a seed."""
        self.newest, self.length, self.film = self.sim.reset(seed), 0, film
        count = self.sight.steps if self.sight else 2
        self.seen: deque[Any] = deque([self._look()] * count, maxlen=count)
        return self._report(success=False, failed=False, frames=[])

    def act(self, actions: np.ndarray) -> Report:
        """Execute actions (execute, 10) until the episode ends."""
        success, failed, frames = False, False, []
        for left, action in zip(range(len(actions), 0, -1), actions, strict=True):
            self.newest = self.sim.step(self.sight.target(self.sim, action) if self.sight else action)
            self.length += 1
            if left <= len(self.seen):  # earlier observations are dropped before the policy is called
                self.seen.append(self._look())
            if self.film:
                frames.append(self.sim.render(FILM_SIZE))
            success = self.sim.success()
            failed = not success and self.sim.failed()
            if success or failed or self.length == self.limit:
                break
        return self._report(success, failed, frames)

    def _look(self) -> np.ndarray | dict[str, np.ndarray]:
        return self.sight.look(self.sim) if self.sight else self.newest

    def _report(self, success: bool, failed: bool, frames: list[np.ndarray]) -> Report:
        cond = stack(self.seen) if self.sight else np.concatenate(list(self.seen))
        return Report(cond, self.length, success, failed, success or failed or self.length == self.limit, frames)


def stack(seen) -> dict[str, np.ndarray]:
    """Stack observations of `Sight.look` along a new first axis."""
    return {name: np.stack([one[name] for one in seen]) for name in seen[0]}
