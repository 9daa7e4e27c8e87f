"""The far side of a rollout: what a worker process does with its share of the episodes.

c  the conditioning of a policy: the previous and the newest observation, 2 * o
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from action_heads.sim.envs import Sim, make

FILM_SIZE = 256  # pixels


@dataclass(frozen=True)
class Start:
    """An order to begin an episode. The other order is a bare chunk of actions (execute, 10)."""

    seed: int
    film: bool


@dataclass(frozen=True)
class Report:
    """Where an episode stands after an order."""

    cond: np.ndarray  # (c,) float32
    length: int
    success: bool
    done: bool
    frames: list[np.ndarray]  # of the steps just made, each (size, size, 3) uint8


class Stage:
    """Lives in a worker: several environments, each built when first needed, and the episodes now running in them."""

    def __init__(self, task: str, limit: int):
        self.task, self.limit = task, limit
        self.plays: dict[int, Play] = {}

    def __call__(self, orders: dict[int, Start | np.ndarray]) -> dict[int, Report]:
        return {
            slot: self._start(slot, o) if isinstance(o, Start) else self.plays[slot].act(o)
            for slot, o in orders.items()
        }

    def _start(self, slot: int, order: Start) -> Report:
        play = self.plays.get(slot)
        if play is None or play.sim.can_render != order.film:  # filming makes resets slow: only where it is wanted
            if play is not None:
                play.sim.close()
            play = self.plays[slot] = Play(make(self.task, render=order.film), self.limit)
        return play.start(order.seed)


class Play:
    """One environment and its episode."""

    def __init__(self, sim: Sim, limit: int):
        self.sim, self.limit = sim, limit

    def start(self, seed: int) -> Report:
        observation = self.sim.reset(seed)
        self.previous, self.newest, self.length = observation, observation, 0
        return self._report(success=False, frames=[])

    def act(self, actions: np.ndarray) -> Report:
        """Carry out actions (execute, 10), or as many of them as it takes to succeed."""
        success, frames = False, []
        for action in actions:
            self.previous, self.newest = self.newest, self.sim.step(action)
            self.length += 1
            if self.sim.can_render:
                frames.append(self.sim.render(FILM_SIZE))
            success = self.sim.success()
            if success or self.length == self.limit:
                break
        return self._report(success, frames)

    def _report(self, success: bool, frames: list[np.ndarray]) -> Report:
        cond = np.concatenate([self.previous, self.newest])
        return Report(cond, self.length, success, success or self.length == self.limit, frames)
