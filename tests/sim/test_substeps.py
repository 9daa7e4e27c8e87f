"""The faster step of robosuite's physics against robosuite's own, through grasps and contacts."""

import numpy as np
import pytest

from action_heads.sim import make, substeps
from action_heads.sim.record import run_expert

pytestmark = pytest.mark.sim


@pytest.mark.parametrize(("task", "seed"), [("Lift", 3), ("NutAssemblySquare", 4)])
def test_the_same_bits_as_robosuites_own_step(task, seed, monkeypatch):
    sim = make(task)
    ours = run_expert(sim, seed, noise=sim.task.noise)
    end = np.array(sim.mujoco.data.qpos), np.array(sim.mujoco.data.qvel)
    assert ours.success, "an episode without a grasp shows little"

    monkeypatch.setattr(substeps, "step", lambda env, action: env.step(action))
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
