"""The description of one simulated task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """The description of one environment. A step is a tick, at 20 Hz."""

    name: str  # name of the environment in robosuite
    objects: tuple[str, ...]  # MuJoCo bodies that are part of the observation
    expert: Callable  # expert(arm) drives an `Arm` through the task
    expert_steps: int  # limit of the expert
    rollout_steps: int  # limit of a policy, roughly twice what the expert takes
    noise: float  # execution noise of `record`, as a fraction of the largest step of the expert (see record.py)
    suite: str = "robosuite"  # or mimicgen or libero, the package of the environment, or two_cubes
    robot: str = "Panda"  # or another of ROBOTS of tasks.py, in environments of robosuite
    instruction: Callable[[int], str] | None = None  # from an episode's seed; else the name says what to do

    @property
    def observation_size(self) -> int:
        """The size o: TCP position 3, rotation 6, fingers 2; per object position 3, rotation 6, position from TCP 3."""
        return 11 + 12 * len(self.objects)
