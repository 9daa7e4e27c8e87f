"""robosuite tasks for the Panda: scripted demonstrations to train on, closed-loop rollouts to test with.

    from action_heads_lab.sim import record, rollout

    demonstrations = record("Lift", episodes=100, path="lift.npz")
    cond, actions, is_pad = demonstrations.chunks(horizon=16)
    ...
    print(rollout("Lift", policy, seeds=range(50), video="lift.mp4"))

A task's name may tell another arm, as "Lift@UR5e" does.

Needs `pip install 'action-heads[sim]'`; `action_heads` itself never imports this. robosuite is imported by the first
`make`, and by the worker processes of `record` and `rollout`, not by this file.
"""

# ruff: noqa: E402
from action_heads._util.extras import require

require("scipy", extra="sim")  # name the extra before the imports below trip over what it brings
require("tqdm", extra="sim")

from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import Sim, make
from action_heads_lab.sim.record import record
from action_heads_lab.sim.rollout import Rollouts, rollout
from action_heads_lab.sim.tasks import TASKS, Task

__all__ = ["TASKS", "Demonstrations", "Rollouts", "Sim", "Task", "make", "record", "rollout"]
