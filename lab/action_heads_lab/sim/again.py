"""Run recorded episodes again to render them, in worker processes that each hold one environment.

Axes: t ticks of an episode.

A reset depends on nothing but the seed, so the images do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from action_heads._util.machine import cores
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.record import run_expert
from action_heads_lab.sim.suites import make
from action_heads_lab.sim.workers import in_order


@dataclass(frozen=True)
class Recorded:
    """An episode to run again."""

    task: str
    number: int  # its place in the recording
    seed: int
    noise: float
    action: np.ndarray  # (t, 10)

    def run(self, sim: Sim, before_step: Callable[[], None]) -> None:
        """Run the episode again from its seed.

        Raises:
            RuntimeError: its actions are not those of the recording.
        """
        if not np.array_equal(run_expert(sim, self.seed, self.noise, before_step).action, self.action):
            raise RuntimeError(
                f"episode {self.number} of {self.task} (seed {self.seed}) came out different when it was run again for "
                "its images, so another version of robosuite or mujoco recorded it. Record it again"
            )


class Images:
    """A renderer: a map from an episode to its images before every action, by column (t, size, size, 3) uint8."""

    def __init__(self, task: str, cameras: Sequence[str], size: int):
        self.sim, self.cameras, self.size = make(task, render=True), cameras, size

    def __call__(self, episode: Recorded) -> dict[str, np.ndarray]:
        seen: dict[str, list[np.ndarray]] = {f"observation.images.{camera}": [] for camera in self.cameras}

        def look() -> None:
            for camera in self.cameras:
                seen[f"observation.images.{camera}"].append(self.sim.render(self.size, camera))

        episode.run(self.sim, look)
        return {name: np.stack(images) for name, images in seen.items()}

    def close(self) -> None:
        """Close the environment."""
        self.sim.close()


def run_again(
    demonstrations: Demonstrations, workers: int | None, build: Callable[..., Any], *arguments: Any
) -> Iterator[Any]:
    """Yield what `build(*arguments)` returns for every `Recorded` episode, in the order of the recording.

    Args:
        demonstrations: a recording.
        workers: number of processes, by default one per core. One worker runs in this process.
        build: class of the renderer, with a method `close`.
        *arguments: arguments of `build`.
    """
    episodes = [
        Recorded(demonstrations.task, number, int(demonstrations.seed[number]), demonstrations.noise, action)
        for number, action in enumerate(np.split(demonstrations.action, np.cumsum(demonstrations.episode_length)[:-1]))
    ]
    yield from in_order(min(cores() if workers is None else workers, len(episodes)), episodes, build, *arguments)
