"""What a policy with cameras is shown of an environment, by the names under which recordings keep it.

s  observation steps, the last of them now     d  numbers of the state     H, W  pixels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from action_heads_lab.sim.conventions import DIALECTS
from action_heads_lab.sim.tasks import get_task

if TYPE_CHECKING:
    from action_heads_lab.sim.envs import Sim

ARM = 11  # the first numbers of what is observed are the arm's own: TCP position 3, rotation 6, fingers 2
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"


@dataclass(frozen=True)
class Sight:
    """Which of it a policy sees.

    Attributes:
        state: columns of numbers, in order.
        cameras: pixels a side of the pictures of each.
        steps: how many observations, the last of them now.
        delta: whether actions say how to move on from where the hand is, not where to be.
        dialect: of the names and frames, see `conventions.py`.
        apart: of our own recordings with cameras: `observation.state` is the arm alone, and where the objects are is
            in `observation.environment_state`. Without cameras, and before that was so, it is all of that.
    """

    state: tuple[str, ...] = ()
    cameras: Mapping[str, int] = field(default_factory=dict)
    steps: int = 2
    delta: bool = False
    dialect: str = "own"
    apart: bool = False

    def look(self, sim: Sim) -> dict[str, np.ndarray]:
        """One observation: "state" (d,) float32, and by camera pictures (H, W, 3) uint8."""
        dialect = DIALECTS[self.dialect]
        seen = {name: dialect.picture(sim, size, name) for name, size in self.cameras.items()}
        if self.state:
            there = dialect.show(sim)
            there = set_apart(there) if self.apart else there
            seen["state"] = np.concatenate([there[name] for name in self.state]).astype(np.float32)
        return seen

    def target(self, sim: Sim, action: np.ndarray) -> np.ndarray:
        """What an action (10,) of the policy means to `Sim.step`."""
        return DIALECTS[self.dialect].target(sim, action, self.delta)


def set_apart(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of ours whose `observation.state` tells of the arm alone."""
    return {**columns, STATE: columns[STATE][..., :ARM]}


def is_apart(state: Sequence[str], width: int) -> bool:
    """Whether so many numbers of these columns are of a recording that sets the objects apart.

    An object is 12 numbers, and joints are 6 or 7: the width alone tells.
    """
    others = {"observation.eef": 9, "observation.gripper": 2, "observation.joint_position": 7}
    known = sum(others.get(name, 0) for name in state)
    return ENVIRONMENT in state or (STATE in state and width - known <= ARM)


def shown(task: str, state: Sequence[str], apart: bool) -> int:
    """How many numbers our own columns have together, of a task."""
    row = get_task(task)
    widths = {
        STATE: ARM if apart else row.observation_size,
        ENVIRONMENT: row.observation_size - ARM,
        "observation.eef": 9,
        "observation.gripper": 2,
        "observation.joint_position": 6 if row.robot == "UR5e" else 7,
    }
    return sum(widths[name] for name in state)
