"""What a policy with cameras is shown of an environment, by the names under which recordings keep it.

s  observation steps, the last of them now     d  numbers of the state     H, W  pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from action_heads.sim.dialects import DIALECTS

if TYPE_CHECKING:
    from action_heads.sim.envs import Sim


@dataclass(frozen=True)
class Sight:
    """Which of it a policy sees.

    Attributes:
        state: columns of numbers, in order.
        cameras: pixels a side of the pictures of each.
        steps: how many observations, the last of them now.
        delta: whether actions say how to move on from where the hand is, not where to be.
        dialect: of the names and frames, see `dialects.py`.
    """

    state: tuple[str, ...] = ()
    cameras: Mapping[str, int] = field(default_factory=dict)
    steps: int = 2
    delta: bool = False
    dialect: str = "own"

    def look(self, sim: Sim) -> dict[str, np.ndarray]:
        """One observation: "state" (d,) float32, and by camera pictures (H, W, 3) uint8."""
        dialect = DIALECTS[self.dialect]
        seen = {name: dialect.picture(sim, size, name) for name, size in self.cameras.items()}
        if self.state:
            there = dialect.show(sim)
            seen["state"] = np.concatenate([there[name] for name in self.state]).astype(np.float32)
        return seen

    def target(self, sim: Sim, action: np.ndarray) -> np.ndarray:
        """What an action (10,) of the policy means to `Sim.step`."""
        return DIALECTS[self.dialect].target(sim, action, self.delta)
