"""Another arm with the same hand, "Lift@UR5e" with six joints, and the TCP by joint positions."""

from dataclasses import replace

import numpy as np
import pytest
from action_heads_lab.sim import TASKS, make
from action_heads_lab.sim.frames import rotation_to_6d
from action_heads_lab.sim.record import run_expert
from action_heads_lab.sim.tasks import get_task

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def ur5e():
    sim = make("Lift@UR5e")
    yield sim
    sim.close()


@pytest.fixture(params=[("lift", 7), ("ur5e", 6)], ids=["Panda", "UR5e"])
def arm(request):
    name, joints = request.param
    return request.getfixturevalue(name), joints


def test_a_robot_is_named_with_the_task():
    assert get_task("Lift") is TASKS["Lift"]
    assert TASKS["Lift"].robot == "Panda"
    assert get_task("Lift@UR5e") == replace(TASKS["Lift"], robot="UR5e")
    with pytest.raises(ValueError, match=r"unknown robot 'ur5e'.*Panda, UR5e"):
        get_task("Lift@ur5e")
    with pytest.raises(ValueError, match="unknown task 'stack_d1@UR5e'"):
        get_task("stack_d1@UR5e")  # MimicGen tasks have their own arm


def test_the_expert_lifts_with_six_joints(ur5e):
    episode = run_expert(ur5e, seed=10_003)
    assert episode.success
    assert episode.joint_position.shape == (len(episode.action), 6)
    assert episode.observation.shape[1] == TASKS["Lift"].observation_size
    ur5e.reset(10_003)
    assert any([ur5e.step(action) is not None and ur5e.success() for action in episode.action]), "open loop"


def test_joints_mean_where_the_tcp_is_with_them(arm):
    sim, joints = arm
    sim.reset(seed=0)
    before = sim.observe()
    target = sim.joint_position + np.random.default_rng(1).uniform(-0.4, 0.4, joints)
    (action,) = sim.at_joints(np.append(target, -1.0)[None])
    assert np.array_equal(sim.observe(), before), "the query moves nothing"
    assert np.abs(action[:3] - sim.tcp.p).max() > 0.01
    sim.mujoco.data.qpos[sim.robot._ref_joint_pos_indexes] = target
    sim.mujoco.forward()
    np.testing.assert_allclose(action, [*sim.tcp.p, *rotation_to_6d(sim.tcp.R), -1.0], atol=1e-9)


def test_joint_targets_bring_the_joints_there(ur5e):
    """An arm of six joints reaches the targets of its joints."""
    ur5e.reset(seed=1)
    target = ur5e.joint_position + np.array([0.1, -0.1, 0.1, -0.1, 0.1, 0.1])
    (action,) = ur5e.at_joints(np.append(target, -1.0)[None])
    for _ in range(40):
        ur5e.step(action)
    np.testing.assert_allclose(ur5e.joint_position, target, atol=0.03)


def test_a_target_of_another_arm_is_refused(ur5e):
    ur5e.reset(seed=1)
    with pytest.raises(ValueError, match=r"\(h, 7\).*\(2, 8\)"):
        ur5e.at_joints(np.zeros((2, 8)))
