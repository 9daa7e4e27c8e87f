"""Synthetic motion stays within the limits of a Panda, is varied, and is reproducible by its generator.

Axes: `b` batch, `h` horizon, 7 joints.
"""

import pytest
import torch

from action_heads.actions.rotations import to_matrix
from action_heads.kinematics.panda import HOME, JOINT_MAX, JOINT_MIN, PANDA, VELOCITY_MAX, forward
from action_heads.kinematics.synthetic import pose_actions, synthetic_chunks


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("horizon", "rate_hz"), [(16, 15.0), (64, 15.0), (16, 500.0), (1, 15.0)])
def test_within_position_and_velocity_limits(horizon: int, rate_hz: float) -> None:
    joints, gripper = synthetic_chunks(4096, horizon, rate_hz, seeded())
    assert joints.shape == (4096, horizon, 7)
    assert joints.dtype == torch.float32
    assert gripper.shape == (4096, horizon)
    assert PANDA.within_limits(joints).all()
    # In fp32 a difference of two joint angles is good to about 5e-7 rad.
    assert (joints.diff(dim=1).abs() * rate_hz <= VELOCITY_MAX + 1e-6 * rate_hz).all()


def test_motion_is_smooth() -> None:
    joints = synthetic_chunks(4096, 64, 200.0, seeded())[0].double()
    # A minimum-jerk move of D seconds accelerates by at most 3.08 of its peak velocity per D, and D is at least 0.5.
    acceleration = joints.diff(n=2, dim=1).abs().amax((0, 1)) * 200**2
    assert (acceleration < 2 * 3.08 * VELOCITY_MAX.double() / 0.5).all()
    assert acceleration.min() > 1.0


def test_motion_is_varied() -> None:
    joints, gripper = synthetic_chunks(8192, generator=seeded())
    speed = joints.diff(dim=1).abs().amax((1, 2)) * 15
    assert 0.03 < (speed < 1e-4).float().mean() < 0.3  # still
    assert (speed < 0.1).float().mean() > 0.2  # slow
    assert (speed > 1.0).float().mean() > 0.05  # fast
    turning = (joints.diff(dim=1)[:, 0] * joints.diff(dim=1)[:, -1]).amin(-1) < -1e-5
    assert turning.float().mean() > 0.05  # a waypoint inside the chunk
    assert set(gripper.unique().tolist()) == {-1.0, 1.0}
    assert 0.45 < (gripper > 0).float().mean() < 0.55
    assert 0.1 < (gripper.diff(dim=1) != 0).any(1).float().mean() < 0.5


def test_one_half_manipulates_the_other_roams() -> None:
    joints, _ = synthetic_chunks(8192, generator=seeded())
    near, anywhere = joints[:4096], joints[4096:]
    assert ((near - HOME).std((0, 1)) < 0.7).all()
    assert ((near.mean((0, 1)) - HOME).abs() < 0.1).all()
    reached = (anywhere.amax((0, 1)) - anywhere.amin((0, 1))) / (JOINT_MAX - JOINT_MIN)
    assert (reached > 0.95).all()


def test_same_generator_same_chunks() -> None:
    first, again, other = (synthetic_chunks(64, generator=seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    generator = seeded(1)
    synthetic_chunks(64, generator=generator)
    assert not torch.equal(synthetic_chunks(64, generator=generator)[0], first[0])


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_small_batches(batch: int) -> None:
    assert synthetic_chunks(batch, generator=seeded())[0].shape == (batch, 16, 7)


@pytest.mark.parametrize("frame", ["tcp", "flange"])
def test_pose_actions_hold_position_rows_and_gripper(frame: str) -> None:
    joints, gripper = synthetic_chunks(32, generator=seeded())
    actions = pose_actions(joints, gripper, frame)
    position, matrix = forward(joints, frame)
    assert actions.shape == (32, 16, 10)
    torch.testing.assert_close(actions[..., :3], position)
    torch.testing.assert_close(to_matrix(actions[..., 3:9], "6d"), matrix)
    assert torch.equal(actions[..., 9], gripper)


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match="batch 0"):
        synthetic_chunks(0)
    with pytest.raises(ValueError, match="rate_hz -1"):
        synthetic_chunks(2, rate_hz=-1)
    with pytest.raises(ValueError, match=r"\(2, 16, 7\) need gripper \(2, 16\), not \(2, 16, 1\)"):
        pose_actions(torch.zeros(2, 16, 7), torch.zeros(2, 16, 1))
