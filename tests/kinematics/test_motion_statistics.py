"""Statistics of motion are measured, kept in a file, and had by the motion that they shape.

Axes: `n` postures, `h` horizon, 7 joints.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from action_heads.kinematics import PANDA, recorded_trajectories, synthetic_chunks
from action_heads.kinematics.statistics import BUNDLED, MotionStatistics, postures, shape_of
from action_heads.kinematics.synthetic import pose_numbers


@pytest.fixture(scope="module")
def measured() -> MotionStatistics:
    return MotionStatistics.of(recorded_trajectories().only("droid_setup_ctrlworld"))


@pytest.fixture(scope="module", params=[*BUNDLED, "measured"])
def statistics(request, measured) -> MotionStatistics:
    return measured if request.param == "measured" else MotionStatistics.load(request.param)


def test_postures_have_the_moments(statistics) -> None:
    drawn = postures(statistics, PANDA)
    assert PANDA.within_limits(drawn).all()
    std = torch.tensor(statistics.std)
    assert ((drawn.mean(0) - torch.tensor(statistics.mean)).abs() < 0.05 * std).all()
    torch.testing.assert_close(drawn.std(0), std, rtol=0.05, atol=0.0)
    poses = pose_numbers(drawn, statistics.frame or PANDA.frame, PANDA)
    pose_std = torch.tensor(statistics.pose_std)
    assert ((poses.mean(0) - torch.tensor(statistics.pose_mean)).abs() < 0.1 * pose_std).all()
    torch.testing.assert_close(poses.std(0), pose_std, rtol=0.15, atol=0.0)
    for tail in ((drawn < torch.tensor(statistics.p01)), (drawn > torch.tensor(statistics.p99))):
        assert ((tail.float().mean(0) - 0.01).abs() < 0.005).all()


def test_postures_have_the_correlation(measured) -> None:
    drawn = np.corrcoef(postures(measured, PANDA).numpy(), rowvar=False)
    assert np.abs(drawn - np.array(measured.correlation)).max() < 0.2
    assert np.abs(np.array(measured.correlation) - np.eye(7)).max() > 0.5


def test_motion_has_the_speed_and_the_gripper(statistics) -> None:
    joints, gripper = synthetic_chunks(
        8192, generator=torch.Generator().manual_seed(3), shape=shape_of(statistics, PANDA)
    )
    speed = (joints.diff(dim=1) * 15).square().mean().sqrt()
    assert speed == pytest.approx(np.sqrt(np.mean(np.square(statistics.velocity_std))), rel=0.1)
    assert (gripper[:, 0] > 0).float().mean() == pytest.approx(statistics.closed, abs=0.02)
    assert PANDA.within_limits(joints).all()


def test_a_file_keeps_the_statistics(measured, tmp_path) -> None:
    (tmp_path / "mine.json").write_text(measured.to_json())
    again = MotionStatistics.load(tmp_path / "mine.json")
    assert again == measured
    assert again.hash == measured.hash != replace(measured, closed=0.5).hash


def test_statistics_are_of_the_chosen_episodes_alone(measured) -> None:
    table = recorded_trajectories().only("droid_setup_ctrlworld")
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(table.starts, table.lengths, strict=True)])
    np.testing.assert_allclose(measured.mean, table.joints.numpy()[rows].mean(0, dtype=np.float64), atol=1e-6)
    jumps = [np.diff(table.joints.numpy()[a : a + n], axis=0) for a, n in zip(table.starts, table.lengths, strict=True)]
    np.testing.assert_allclose(measured.velocity_std, 15 * np.concatenate(jumps).std(0), rtol=1e-4)


@pytest.mark.parametrize("joints", [1, 2, 7])
def test_arms_of_few_joints_are_measured_and_moved(tmp_path, joints) -> None:
    """One joint has a correlation too, which is 1."""
    arm = replace(PANDA, lower=PANDA.lower[:joints], upper=PANDA.upper[:joints], velocity=PANDA.velocity[:joints])
    rest = PANDA.home[joints:]
    arm = replace(
        arm,
        home=PANDA.home[:joints],
        forward=lambda q, f: PANDA.forward(torch.cat([q, rest.to(q).expand(*q.shape[:-1], -1)], -1), f),
    )
    table = replace(recorded_trajectories().only("droid_setup_ctrlworld"), arm=arm)
    table = replace(table, joints=table.joints[:, :joints].clone())
    found = MotionStatistics.of(table)
    np.testing.assert_allclose(np.diag(found.correlation), np.ones(joints), atol=1e-6)
    (tmp_path / "mine.json").write_text(found.to_json())
    assert MotionStatistics.load(tmp_path / "mine.json") == found
    drawn = postures(found, arm)
    assert drawn.shape[1] == joints
    assert ((drawn.mean(0) - torch.tensor(found.mean)).abs() < 0.1 * torch.tensor(found.std)).all()


@pytest.mark.filterwarnings("error")
def test_one_posture_has_no_correlation() -> None:
    table = recorded_trajectories().only("droid_setup_ctrlworld")
    table = replace(table, starts=table.starts[:1], lengths=np.array([1]), names=("a",), corpora=("a",))
    found = MotionStatistics.of(table)
    assert (found.correlation, found.velocity_std) == (None, (0.0,) * 7)


def test_a_joint_that_never_moves_stays(measured) -> None:
    still = dict(std=(0.0, *measured.std[1:]), velocity_std=(0.0, *measured.velocity_std[1:]))
    at = dict(min=(0.1, *measured.min[1:]), max=(0.1, *measured.max[1:]), mean=(0.1, *measured.mean[1:]))
    held = replace(measured, **still, **at, pose_mean=None, pose_std=None, correlation=None)
    assert (postures(held, PANDA)[:, 0] == 0.1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 7}, "its version is 7, expected 1"),
        ({"mean": [0.0] * 6}, "std has 7 values, expected 6"),
        ({"std": [-0.1] * 7}, "std has a negative"),
        ({"closed": 3}, "closed is a share between 0 and 1, not 3"),
        ({"colour": 1}, "colour"),
        ({"pose_std": None}, "both pose_mean and pose_std"),
        ({"mean": [float("nan")] * 7}, "finite"),
        ({"min": [9.0] * 7}, "min is above max"),
        ({"correlation": [[1.0]]}, "correlation has shape"),
    ],
)
def test_a_damaged_file_is_refused(measured, tmp_path, change, message) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(json.loads(measured.to_json()) | change))
    with pytest.raises(ValueError, match=message):
        MotionStatistics.load(path)


def test_other_refusals(measured, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="action-heads statistics"):
        MotionStatistics.load(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object"):
        MotionStatistics.load(tmp_path / "list.json")
    short = {name: getattr(measured, name)[:6] for name in ("mean", "std", "min", "max", "p01", "p99", "velocity_std")}
    with pytest.raises(ValueError, match="6 joints, but panda has 7"):
        postures(replace(measured, **short, correlation=None), PANDA)
    poses = replace(recorded_trajectories(), joints=None, poses=torch.zeros(1, 9))
    with pytest.raises(ValueError, match="joints of a known arm"):
        MotionStatistics.of(poses)
