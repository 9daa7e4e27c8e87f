import numpy as np
import pytest
import torch
from action_heads_lab.sim.frames import TCP_IN_SITE, Pose, rotation_from_6d, rotation_to_6d
from scipy.spatial.transform import Rotation

from action_heads.kinematics.panda import forward

pytestmark = pytest.mark.sim


@pytest.fixture
def rotation():
    return Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()


def test_6d_is_the_first_two_rows_and_round_trips(rotation):
    assert np.array_equal(rotation_to_6d(rotation), [*rotation[0], *rotation[1]])
    np.testing.assert_allclose(rotation_from_6d(3 * rotation_to_6d(rotation)), rotation, atol=1e-12)


def test_pose_times_its_inverse_is_identity(rotation):
    pose = Pose(np.array([0.1, -2.0, 3.0]), rotation)
    for product in (pose @ pose.inverse(), pose.inverse() @ pose):
        np.testing.assert_allclose(product.p, 0, atol=1e-12)
        np.testing.assert_allclose(product.R, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("posture", range(4))
def test_tcp_is_frankas_own_hand_frame(lift, posture):
    """The site of the simulator and the constant agree with the forward kinematics of the joints."""
    lift.reset(seed=0)
    if posture:
        near_home = lift.joint_position + np.random.default_rng(posture).uniform(-0.6, 0.6, 7)
        lift.mujoco.data.qpos[lift.robot._ref_joint_pos_indexes] = near_home
        lift.mujoco.forward()
    position, matrix = forward(torch.tensor(lift.joint_position), frame="tcp")
    np.testing.assert_allclose(lift.tcp.p, position, atol=1e-6)
    np.testing.assert_allclose(lift.tcp.R, matrix, atol=1e-6)


def test_the_constant_matters(lift):
    """The TCP and the site differ by a quarter turn and 7 mm, see Sim.tcp."""
    lift.reset(seed=0)
    assert Rotation.from_matrix(TCP_IN_SITE.R).magnitude() == pytest.approx(np.pi / 2, abs=1e-3)
    position, _ = forward(torch.tensor(lift.joint_position), frame="tcp")
    assert np.linalg.norm(lift.site("gripper0_grip_site").p - position.numpy()) == pytest.approx(0.0069, abs=1e-5)


def test_what_robosuite_records_is_a_frame_of_the_panda(lift):
    """A recording of robosuite mixes two frames: robot0_eef_pos of the grip site, robot0_eef_quat of right_hand."""
    lift.reset(seed=0)
    observed = lift.env._get_observations(force_update=True)
    recorded = lift.from_world(
        Pose(observed["robot0_eef_pos"], Rotation.from_quat(observed["robot0_eef_quat"]).as_matrix())
    )
    joints = torch.tensor(lift.joint_position)
    for pose, frame in ((recorded, "robosuite_eef"), (lift.site("gripper0_grip_site"), "grip_site")):
        position, matrix = forward(joints, frame)
        np.testing.assert_allclose(pose.p, position, atol=1e-5)
        np.testing.assert_allclose(pose.R, matrix, atol=1e-5)
