"""robosuite's control step, to the same bits in two thirds of the time.

In every substep of the physics robosuite computes the forward dynamics three times, and looks after observables of its
own that nothing here reads. One pass in two halves does: what the controller reads, and what its torques cause.
"""

from __future__ import annotations

import numpy as np

from action_heads._util.extras import require


def step(env, action: np.ndarray) -> None:
    """`env.step(action)` of robosuite, LIBERO or MimicGen; an environment that takes its own pictures steps as ever."""
    if env.use_camera_obs:
        env.step(action)
        return
    mujoco = require("mujoco", extra="sim")
    sim = env.sim
    model, data = sim.model._model, sim.data._data
    env.timestep += 1
    sim.forward = _nothing  # the controller calls it; the first half has just done that
    try:
        for substep in range(int(env.control_timestep / env.model_timestep)):
            mujoco.mj_step1(model, data)
            env._pre_action(action, policy_step=substep == 0)
            mujoco.mj_step2(model, data)
    finally:
        del sim.forward
    env.cur_time += env.control_timestep
    env._post_action(action)


def _nothing() -> None:
    pass
