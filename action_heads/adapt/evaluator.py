"""Where a policy is tried after training: a simulation that another distribution registers."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

from action_heads._util.extras import remedy
from action_heads.adapt.settings import AdaptConfig
from action_heads.observed_policy import ObservedPolicy

GROUP = "action_heads.evaluators"


class Evaluator(Protocol):
    """What an entry point of the group `action_heads.evaluators` names: a module or an object with these two."""

    def check_task(self, config: AdaptConfig, policy: ObservedPolicy) -> None:
        """Raise a ValueError before training if the simulation cannot try this policy in `config.rollout.task`."""

    def roll_out(self, config: AdaptConfig, policy: ObservedPolicy) -> Any:
        """Return a dataclass of what the rollouts of `config.rollout.episodes` episodes came to."""


def find() -> Evaluator:
    """Return the registered evaluator.

    Raises:
        ImportError: no distribution registers one.
    """
    for point in entry_points(group=GROUP):
        return point.load()
    raise ImportError(f"--task rolls out in a simulation, which action-heads-lab brings. {remedy('sim')}")
