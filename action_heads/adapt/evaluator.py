"""Protocol of the simulation that evaluates a policy after training. Another distribution registers it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

from action_heads._util.extras import remedy
from action_heads.adapt.settings import AdaptConfig
from action_heads.observed_policy import ObservedPolicy

GROUP = "action_heads.evaluators"


class Evaluator(Protocol):
    """A module or object with these functions, named by an entry point of the group `action_heads.evaluators`."""

    def check_task(self, config: AdaptConfig, policy: ObservedPolicy) -> None:
        """Raise a ValueError before training if the simulation cannot roll out this policy in `config.rollout.task`."""

    def roll_out(self, config: AdaptConfig, policy: ObservedPolicy) -> Any:
        """Roll out `config.rollout.episodes` episodes and return a dataclass of the results."""


def find() -> Evaluator:
    """Return the registered evaluator.

    Raises:
        ImportError: no installed distribution registers one.
    """
    for point in entry_points(group=GROUP):
        return point.load()
    raise ImportError(f"--task needs a simulation, which action-heads-lab provides. {remedy('sim')}")
