"""Episodes of a rollout in a worker process.

Axes: s observations of a `Sight`, the last of which is current.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from action_heads_lab.sim.conventions import DIALECTS
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.observations import STATES, Sight
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

    cond: dict[str, np.ndarray]  # observations by name, each (s, ...)
    length: int
    success: bool
    failed: bool  # ended before the limit without success, see `Sim.failed`
    done: bool
    frames: list[np.ndarray]  # of the last ticks, each (size, size, 3) uint8


class Stage:
    """The environments of a worker process, each made when it is first needed, with their running episodes."""

    def __init__(self, task: str, limit: int, sight: Sight):
        self.task, self.limit, self.sight = task, limit, sight
        self.plays: dict[int, Play] = {}

    def __call__(self, orders: dict[int, Start | np.ndarray]) -> dict[int, Report]:
        return {
            slot: self._start(slot, o) if isinstance(o, Start) else self.plays[slot].act(o)
            for slot, o in orders.items()
        }

    def _start(self, slot: int, order: Start) -> Report:
        play = self.plays.get(slot)
        render = order.film or bool(self.sight.cameras)
        if play is None or play.sim.can_render != render:  # rendering slows resets, so only if needed
            if play is not None:
                play.sim.close()
            sim = make(self.task, render=render, fast=DIALECTS[self.sight.dialect].fast)
            play = self.plays[slot] = Play(sim, self.limit, self.sight)
        return play.start(order.seed, order.film)


class Play:
    """An environment and its episode."""

    def __init__(self, sim: Sim, limit: int, sight: Sight = STATES):
        self.sim, self.limit, self.sight = sim, limit, sight

    def start(self, seed: int, film: bool = False) -> Report:
        """Start the episode of a seed."""
        self.sim.reset(seed)
        self.length, self.film = 0, film
        self.seen = deque([self.sight.look(self.sim)] * self.sight.steps, maxlen=self.sight.steps)
        return self._report(success=False, failed=False, frames=[])

    def act(self, actions: np.ndarray) -> Report:
        """Execute actions (execute, 10) until the episode ends."""
        success, failed, frames = False, False, []
        for left, action in zip(range(len(actions), 0, -1), actions, strict=True):
            self.sim.step(self.sight.target(self.sim, action))
            self.length += 1
            if left <= len(self.seen):  # earlier observations are dropped before the policy is called
                self.seen.append(self.sight.look(self.sim))
            if self.film:
                frames.append(self.sim.render(FILM_SIZE))
            success = self.sim.success()
            failed = not success and self.sim.failed()
            if success or failed or self.length == self.limit:
                break
        return self._report(success, failed, frames)

    def _report(self, success: bool, failed: bool, frames: list[np.ndarray]) -> Report:
        done = success or failed or self.length == self.limit
        return Report(stack(self.seen), self.length, success, failed, done, frames)


def stack(seen: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack observations by name along a new first axis."""
    return {name: np.stack([one[name] for one in seen]) for name in seen[0]}
