"""Conversion of units, frames and the gripper, and resampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from action_heads.actions.rotations import from_matrix, to_matrix
from action_heads.data.convert import Steps, resample, to_steps
from action_heads.data.motion import Raw
from action_heads.data.schema import ROTATION_WIDTHS, Schema
from action_heads.kinematics import PANDA, forward, pose_actions, synthetic_chunks
from action_heads.kinematics.panda import FRAMES


def motion(steps: int = 16, rate_hz: float = 15.0) -> np.ndarray:
    """Return joints (t, 7) of a moving arm."""
    joints = synthetic_chunks(64, steps, rate_hz, torch.Generator().manual_seed(0))[0]
    return joints[joints.diff(dim=1).abs().sum((1, 2)).argmax()].double().numpy()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("form", ROTATION_WIDTHS)
def test_poses_of_any_form_and_frame_become_the_tcp_s(form, frame):
    joints = motion()
    position, matrix = forward(torch.from_numpy(joints), frame)
    rotation = from_matrix(matrix, form).reshape(16, -1).numpy()
    schema = Schema(position="p", rotation="r", rotation_form=form, frame=frame, position_unit="mm", world=True)
    base = np.array([0.3, -0.2, 0.9])
    steps = to_steps(Raw("c", "e", None, (position.numpy() + base) * 1000, rotation, None), schema, PANDA, base)
    expected = pose_actions(torch.from_numpy(joints), -torch.ones(16))
    assert steps.joints is None
    np.testing.assert_allclose(steps.poses, expected[:, :9], atol=1e-6)


def test_joints_of_a_known_arm_are_kept_alone():
    joints = motion()
    pose = np.zeros((16, 3)), np.tile([0.0, 0.0, 0.0, 1.0], (16, 1))
    schema = Schema(joints="q", joints_unit="deg", position="p", rotation="r")
    known = to_steps(Raw("c", "e", np.rad2deg(joints), *pose, None), schema, PANDA, None)
    np.testing.assert_allclose(known.joints, joints, atol=1e-6)
    assert known.poses is None
    unknown = to_steps(Raw("c", "e", np.rad2deg(joints), *pose, None), schema, None, None)
    assert unknown.joints.shape == (16, 7)
    assert unknown.poses.shape == (16, 9)


@pytest.mark.parametrize(("opened", "closed"), [(0.0, 1.0), (0.04, 0.0), (-1.0, 1.0), (1.0, -1.0)])
def test_gripper_is_cut_halfway_and_nan_is_open(opened, closed):
    shares = np.array([0.0, 0.4, 0.6, 1.0, np.nan])
    schema = Schema(joints="q", gripper="g", gripper_open=opened, gripper_closed=closed)
    raw = Raw("c", "e", motion(5), None, None, opened + shares * (closed - opened))
    assert to_steps(raw, schema, PANDA, None).gripper.tolist() == [-1, -1, 1, 1, -1]
    assert to_steps(Raw("c", "e", motion(5), None, None, None), schema, PANDA, None).gripper.tolist() == [-1] * 5


@pytest.mark.parametrize(("recorded", "wanted", "count"), [(30.0, 15.0, 31), (15.0, 30.0, 121), (20.0, 15.0, 46)])
def test_another_rate_is_the_same_motion(recorded, wanted, count):
    fine = motion(60 * 20 + 1, 20.0 * recorded)
    joints = fine[::20]  # a twentieth of the time resolution: 61 steps
    poses = pose_actions(torch.from_numpy(joints), -torch.ones(61).double())[:, :9].float().numpy()
    steps = Steps(joints.astype(np.float32), poses, np.repeat([-1.0, 1.0], [30, 31]).astype(np.float32))
    moved = resample(steps, recorded, wanted)
    assert len(moved.joints) == len(moved.poses) == len(moved.gripper) == count
    times = np.arange(count) / wanted
    expected = fine[np.round(times * 20 * recorded).astype(int)]
    np.testing.assert_allclose(moved.joints, expected, atol=5e-3)
    truth = pose_actions(torch.from_numpy(expected), -torch.ones(count).double()).numpy()
    np.testing.assert_allclose(moved.poses, truth[:, :9], atol=1e-2)
    matrix = to_matrix(torch.from_numpy(moved.poses[:, 3:]).double(), "6d")
    rows = torch.from_numpy(moved.poses[:, 3:]).double().unflatten(-1, (2, 3))
    torch.testing.assert_close(matrix[:, :2], rows, atol=1e-6, rtol=0)  # still rotations
    assert (moved.gripper == np.where(times * recorded > 30 - 1e-6, 1, -1)).all()


@pytest.mark.parametrize("offset", [0.0, 4 * np.pi])
def test_a_continuous_joint_turns_the_shorter_way(offset):
    """Over ±π, where it was recorded within it, it must not swing back through zero."""
    angle = (np.linspace(3.0, 3.4, 9) + np.pi) % (2 * np.pi) - np.pi + offset
    steps = Steps(np.stack([angle, angle], axis=1).astype(np.float32), None, np.ones(9, np.float32))
    moved = resample(steps, 20.0, 15.0, (True, False)).joints.astype(float)
    expected = np.linspace(3.0, 3.4, 9)[0] + 0.05 * np.arange(7) * 20 / 15
    away = (moved[:, 0] - offset - expected + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(away, 0, atol=1e-5)
    assert (np.abs(moved[:, 0]).max() <= np.pi + 1e-3) == (offset == 0)
    assert np.abs(np.diff(moved[:, 1])).max() > 1  # A joint with limits is taken as it is.


def test_the_same_rate_changes_nothing():
    steps = Steps(motion().astype(np.float32), None, np.ones(16, np.float32))
    assert resample(steps, 15.0, 15.0) is steps
    one = Steps(motion()[:1].astype(np.float32), None, np.ones(1, np.float32))
    assert len(resample(one, 15.0, 30.0).gripper) == 1


def test_the_turn_between_two_poses_is_the_shorter_one():
    """Rotations are interpolated along the shorter arc, also across an angle of pi."""
    angles = torch.tensor([3.0, -3.0]).double()  # 0.28 rad apart, across pi
    axis = torch.tensor([[0.0, 0.6, 0.8]]).double()
    rows = from_matrix(to_matrix(angles[:, None] * axis, "axis_angle"), "6d").float().numpy()
    steps = Steps(None, np.concatenate((np.zeros((2, 3), np.float32), rows), axis=1), np.ones(2, np.float32))
    middle = torch.from_numpy(resample(steps, 1.0, 2.0).poses[1, 3:]).double()
    expected = to_matrix(torch.pi * axis[0], "axis_angle")
    torch.testing.assert_close(to_matrix(middle, "6d"), expected, atol=1e-6, rtol=0)
