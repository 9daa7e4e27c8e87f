"""Forward kinematics agrees with reports of real robots, and with a second, plain implementation.

Axes: `n` postures, 7 joints.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from action_heads.kinematics.panda import FRAMES, HOME, JOINT_MAX, JOINT_MIN, PANDA, forward, reframe

DROID = Path(__file__).parents[1] / "data" / "droid_3_episodes.npz"


def random_joints(n: int) -> torch.Tensor:
    share = torch.rand(n, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.lerp(JOINT_MIN.double(), JOINT_MAX.double(), share)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_three_real_droid_episodes(dtype: torch.dtype) -> None:
    data = np.load(DROID, allow_pickle=False)
    position, matrix = forward(torch.tensor(data["joint_position"], dtype=dtype), "flange")
    recorded = data["cartesian_position"].astype(np.float64)
    assert np.abs(position.double().numpy() - recorded[:, :3]).max() < 1e-6
    turn = Rotation.from_matrix(matrix.double().numpy()) * Rotation.from_euler("xyz", recorded[:, 3:]).inv()
    assert turn.magnitude().max() < 1e-5


def by_homogeneous_matrices(joints: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) of the flange for one posture (7,), by Craig's DH convention as in textbooks."""
    a = [0, 0, 0, 0.0825, -0.0825, 0, 0.088]
    d = [0.333, 0, 0.316, 0, 0.384, 0, 0]
    alpha = np.deg2rad([0, -90, 90, 90, -90, 90, 90])
    pose = np.eye(4)
    for i in range(7):
        ct, st, ca, sa = np.cos(joints[i]), np.sin(joints[i]), np.cos(alpha[i]), np.sin(alpha[i])
        pose = pose @ [
            [ct, -st, 0, a[i]],
            [st * ca, ct * ca, -sa, -d[i] * sa],
            [st * sa, ct * sa, ca, d[i] * ca],
            [0, 0, 0, 1],
        ]
    return pose @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.107], [0, 0, 0, 1]]


def test_agrees_with_the_textbook_anywhere_within_limits() -> None:
    joints = random_joints(200)
    position, matrix = forward(joints, "flange")
    expected = torch.tensor(np.stack([by_homogeneous_matrices(q) for q in joints.numpy()]))
    torch.testing.assert_close(position, expected[:, :3, 3])
    torch.testing.assert_close(matrix, expected[:, :3, :3])


def test_tcp_is_the_hand() -> None:
    joints = random_joints(50)
    (flange, matrix), (tcp, turned) = forward(joints, "flange"), forward(joints)
    torch.testing.assert_close(tcp, flange + 0.1034 * matrix[..., 2])
    relative = Rotation.from_matrix((matrix.mT @ turned).numpy()).as_rotvec(degrees=True)
    np.testing.assert_allclose(relative, np.tile([0, 0, -45], (50, 1)), atol=1e-9)


def test_home_points_down_in_front_of_the_base() -> None:
    position, matrix = forward(HOME.double())
    torch.testing.assert_close(position[1], torch.tensor(0.0).double(), atol=1e-6, rtol=0)
    assert 0.2 < position[0] < 0.4
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([1.0, -1.0, -1.0])).double(), atol=1e-6, rtol=0)


def test_any_leading_axes_and_gradients() -> None:
    joints = random_joints(24)
    position, matrix = forward(joints)
    folded = forward(joints.reshape(2, 3, 4, 7))
    torch.testing.assert_close(folded[0].reshape(24, 3), position)
    torch.testing.assert_close(folded[1].reshape(24, 3, 3), matrix)
    torch.testing.assert_close(forward(joints[0])[1], matrix[0])
    assert forward(joints[:0])[1].shape == (0, 3, 3)
    assert torch.autograd.gradcheck(forward, joints[:2].requires_grad_())


def test_limits() -> None:
    assert PANDA.within_limits(HOME).all()
    assert PANDA.within_limits(torch.stack((JOINT_MIN, JOINT_MAX))).all()
    assert not PANDA.within_limits(torch.stack((JOINT_MIN - 1e-3, JOINT_MAX + 1e-3))).any()


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match=r"'gripper'.*'flange', 'hand', 'tcp'"):
        forward(torch.zeros(7), "gripper")
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(..., 7\)"):
        forward(torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"int64.*floating"):
        forward(torch.zeros(7, dtype=torch.int64))


@pytest.mark.parametrize("target", FRAMES)
@pytest.mark.parametrize("source", FRAMES)
def test_poses_move_between_all_frames(source: str, target: str) -> None:
    joints = random_joints(20)
    for moved, expected in zip(reframe(*forward(joints, source), source, target), forward(joints, target), strict=True):
        torch.testing.assert_close(moved, expected)
