"""Simulated tasks for the Panda: scripted demonstrations for training, and closed-loop rollouts for evaluation.

    from action_heads_lab.sim import record, rollout

    demonstrations = record("Lift", episodes=100, path="lift.npz")
    cond, actions, is_pad = demonstrations.chunks(horizon=16)
    ...
    print(rollout("Lift", policy, seeds=range(50), video="lift.mp4"))

A task name may name another arm, such as "Lift@UR5e".

This package needs `pip install 'action-heads[sim]'`. It imports robosuite only in `make` and in the worker processes of
`record` and `rollout`.
"""

# ruff: noqa: E402
from action_heads._util.extras import require

require("scipy", extra="sim")  # names the extra before the imports below fail without its packages
require("tqdm", extra="sim")

from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.record import record
from action_heads_lab.sim.rollout import Rollouts, rollout
from action_heads_lab.sim.suites import make
from action_heads_lab.sim.task import Task
from action_heads_lab.sim.tasks import TASKS

__all__ = ["TASKS", "Demonstrations", "Rollouts", "Sim", "Task", "make", "record", "rollout"]
