"""Observations of a policy in the simulation, by the names that its recording uses.

Axes: s observations, the last of which is current, d size of the state, H and W pixels.
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

ARM = 11  # an observation begins with the state of the arm: TCP position 3, rotation 6, fingers 2
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"


@dataclass(frozen=True)
class Sight:
    """The observations and actions of a policy.

    Attributes:
        state: state columns, in order.
        cameras: camera -> height and width of its images.
        steps: number of observations, the last of which is current.
        delta: whether actions are relative to the pose of the hand.
        dialect: dialect of names and frames, see `conventions.py`.
        apart: whether `observation.state` is the arm only and `observation.environment_state` the objects, as in
            recordings with cameras of `action-heads record`. In recordings without cameras, and in old ones,
            `observation.state` has both.
    """

    state: tuple[str, ...] = ()
    cameras: Mapping[str, int] = field(default_factory=dict)
    steps: int = 2
    delta: bool = False
    dialect: str = "own"
    apart: bool = False

    def look(self, sim: Sim) -> dict[str, np.ndarray]:
        """Return one observation: "state" (d,) float32, and images (H, W, 3) uint8 by camera.

        In tasks with several instructions, "instruction" holds that of the episode.
        """
        dialect = DIALECTS[self.dialect]
        seen = {name: dialect.image(sim, size, name) for name, size in self.cameras.items()}
        if self.state:
            there = dialect.show(sim)
            there = set_apart(there) if self.apart else there
            seen["state"] = np.concatenate([there[name] for name in self.state]).astype(np.float32)
        if sim.instruction:
            seen["instruction"] = np.array(sim.instruction)
        return seen

    def target(self, sim: Sim, action: np.ndarray) -> np.ndarray:
        """Return the target for `Sim.step` of an action (10,) of the policy."""
        return DIALECTS[self.dialect].target(sim, action, self.delta)


STATES = Sight((STATE,))  # the previous and the newest observation of policies on states


def set_apart(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns with an `observation.state` of the arm only."""
    return {**columns, STATE: columns[STATE][..., :ARM]}


def is_apart(state: Sequence[str], width: int) -> bool:
    """Return whether these columns, `width` numbers in total, have the objects in a column of their own.

    An object has 12 numbers and an arm 6 or 7 joints, so the width is enough to decide.
    """
    others = {"observation.eef": 9, "observation.gripper": 2, "observation.joint_position": 7}
    known = sum(others.get(name, 0) for name in state)
    return ENVIRONMENT in state or (STATE in state and width - known <= ARM)


def shown(task: str, state: Sequence[str], apart: bool) -> int:
    """Return the total width of these columns of `action-heads record`, for a task."""
    row = get_task(task)
    widths = {
        STATE: ARM if apart else row.observation_size,
        ENVIRONMENT: row.observation_size - ARM,
        "observation.eef": 9,
        "observation.gripper": 2,
        "observation.joint_position": 6 if row.robot == "UR5e" else 7,
    }
    return sum(widths[name] for name in state)
