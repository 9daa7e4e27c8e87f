"""The faster ticks and resets equal those of robosuite to the bit, through grasps and contacts."""

from contextlib import nullcontext

import numpy as np
import pytest
from action_heads_lab.sim import compiled, make, substeps
from action_heads_lab.sim.record import run_expert

pytestmark = pytest.mark.sim


@pytest.mark.parametrize(("task", "seed"), [("Lift", 3), ("NutAssemblySquare", 4)])
def test_the_same_bits_as_by_robosuites_own_steps_and_resets(task, seed, monkeypatch):
    sim = make(task)
    sim.reset(seed=1)
    ours = run_expert(sim, seed, noise=sim.task.noise)
    end = np.array(sim.mujoco.data.qpos), np.array(sim.mujoco.data.qvel)
    assert ours.success, "the episode must include a grasp"

    monkeypatch.setattr(substeps, "step", lambda env, action: env.step(action))
    monkeypatch.setattr(compiled, "once", nullcontext)
    theirs = run_expert(sim, seed, noise=sim.task.noise)
    np.testing.assert_array_equal(theirs.observation, ours.observation)
    np.testing.assert_array_equal(end[0], sim.mujoco.data.qpos)
    np.testing.assert_array_equal(end[1], sim.mujoco.data.qvel)
    sim.close()


def test_the_controller_can_compute_forward_again_afterwards(lift):
    lift.reset(seed=1)
    lift.mujoco.data.qpos[0] += 0.1
    before = lift.tcp.p
    lift.mujoco.forward()
    assert np.abs(lift.tcp.p - before).max() > 0.01
