"""What a policy with cameras is shown of an environment, by the names under which recordings keep it.

s  observation steps, the last of them now     d  numbers of the state     H, W  pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from action_heads.sim.envs import Sim


def columns(observation: np.ndarray, joint_position: np.ndarray) -> dict[str, np.ndarray]:
    """Observations (... o) and joints (... 7) as the columns of a recording, see dataset.py."""
    return {
        "observation.state": observation,
        "observation.joint_position": joint_position,
        "observation.eef": observation[..., :9],
        "observation.gripper": observation[..., 9:11],
    }


COLUMNS = tuple(columns(np.zeros(0), np.zeros(0)))


@dataclass(frozen=True)
class Sight:
    """Which of it a policy sees.

    Attributes:
        state: columns of numbers, in order.
        cameras: pixels a side of the pictures of each.
        steps: how many observations, the last of them now.
        delta: whether actions say how to move on from where the hand is, not where to be.
    """

    state: tuple[str, ...] = ()
    cameras: Mapping[str, int] = field(default_factory=dict)
    steps: int = 2
    delta: bool = False

    def look(self, sim: Sim) -> dict[str, np.ndarray]:
        """One observation: "state" (d,) float32, and by camera pictures (H, W, 3) uint8."""
        seen: dict[str, np.ndarray] = {name: sim.render(size, name) for name, size in self.cameras.items()}
        if self.state:
            there = columns(sim.observe(), sim.joint_position.astype(np.float32))
            seen["state"] = np.concatenate([there[name] for name in self.state])
        return seen
