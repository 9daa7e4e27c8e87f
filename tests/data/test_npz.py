"""The reader of the package's own .npz format."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_fixture import DROID

from action_heads.data import BadData, BadEpisode, Spec, find_arm, open_windows
from action_heads.kinematics import recorded_chunks, synthetic_chunks


def content(**changes) -> dict[str, np.ndarray]:
    with np.load(DROID, allow_pickle=False) as file:
        data = dict(file)
    return {key: value for key, value in (data | changes).items() if value is not None}


def opened(path, options="", steps=16, split="all"):
    return open_windows(Spec.parse(f"npz:{path}{options}"), steps, split)


@pytest.fixture
def saved(tmp_path):
    def save(**changes):
        path = tmp_path / f"file_{len(list(tmp_path.glob('file*')))}.npz"
        np.savez(path, **content(**changes))
        return path

    return save


def test_reads_the_droid_fixture():
    table = opened(DROID).trajectories
    data = content()
    np.testing.assert_array_equal(table.joints, data["joint_position"])
    assert table.names == tuple(data["name"].tolist())
    assert set(table.corpora) == {"droid_1.0.1"}


def test_poses_joints_or_both(saved):
    both, joints, poses = opened(saved()), opened(saved(cartesian_position=None)), opened(saved(joint_position=None))
    index = torch.arange(0, len(both), 11)
    assert torch.equal(joints[index].poses, both[index].poses)
    torch.testing.assert_close(poses[index].poses, both[index].poses, atol=1e-6, rtol=0)
    assert poses[index].joints is None


def test_what_may_be_left_out(saved):
    table = opened(saved(name=None, source=None, gripper=None, text=None)).trajectories
    assert table.names == ("episode_000000", "episode_000001", "episode_000002")
    assert len(set(table.corpora)) == 1
    assert (table.gripper == -1).all()


def test_the_bundled_recordings_by_name():
    ours, known = opened("panda_kinematics", split="held_out"), recorded_chunks("held_out")
    a, b = (w(8, torch.Generator().manual_seed(0)).poses for w in (ours, known))
    assert torch.equal(a, b)


def test_joints_of_another_arm(tmp_path):
    """Poses come from the forward kinematics of the named arm, and joints are checked against its limits."""
    pytest.importorskip("pinocchio")
    six = Path(__file__).parents[1] / "kinematics" / "data" / "six.urdf"
    arm = find_arm(str(six))
    joints = synthetic_chunks(2, 40, generator=torch.Generator().manual_seed(0), arm=arm)[0].flatten(0, 1)
    lengths, starts = np.array([40, 40]), np.array([0, 40])
    path = tmp_path / "six.npz"
    np.savez(path, joint_position=joints.numpy(), episode_start=starts, episode_length=lengths)
    motion = opened(path, f"?arm={six}&tip=hand")[torch.tensor([0])]
    torch.testing.assert_close(motion.poses[0, :, :3], arm.forward(joints[:16], "hand")[0])
    with pytest.raises(BadData, match=r"6 joints, but .*panda.* has 7"):
        opened(path)
    np.savez(path, joint_position=joints.numpy() + 3, episode_start=starts, episode_length=lengths)
    with pytest.raises(BadData, match=r"joint \d is .*outside .* of six"):
        opened(path, f"?arm={six}")


def test_rates(saved):
    assert opened(saved(rate_hz=np.array(30.0))).trajectories.lengths.tolist() == [84, 133, 206]
    assert opened(saved(), "?recorded_hz=30").trajectories.lengths.tolist() == [84, 133, 206]


def test_pickles_are_refused(saved):
    path = saved(text=np.array([{"a": 1}, None, 3], dtype=object))
    with pytest.raises(BadData, match="pickled objects, which could run code"):
        opened(path)


def test_errors_teach(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        opened(tmp_path / "none.npz")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(BadData, match=r"not an \.npz file. Write it with numpy\.savez"):
        opened(tmp_path / "x.npy")
    with pytest.raises(BadData, match="lacks episode_start; it has"):
        opened(saved(episode_start=None))
    with pytest.raises(ValueError, match=r"position \(cartesian_position\)"):
        opened(saved(joint_position=None, cartesian_position=None))
    with pytest.raises(BadData, match="not contiguous"):
        opened(saved(episode_start=np.array([0, 100, 433])))
    with pytest.raises(BadData, match="joint_position has 843 rows, but episode_length sums to 844"):
        opened(saved(joint_position=content()["joint_position"][:-1]))
    with pytest.raises(BadData, match="no episodes"):
        opened(saved(**{key: content()[key][:0] for key in content()}))
    with pytest.raises(ValueError, match=r"'a' of droid_1\.0\.1 comes twice"):
        opened(saved(name=np.array(["a", "b", "a"])))
    with pytest.raises(BadData, match=r"none of its 3 .* of at least 16 time steps is in the split 'train'"):
        opened(saved(source=np.array(["a", "b", "c"])), split="train")


def test_a_gripper_that_never_changes_once_cut_is_told_every_time(saved):
    """A gripper whose whole range lies on one side of the boundary gives a warning at every opening."""
    moving = content()["gripper"]
    path = saved(gripper=0.4 * (moving - moving.min()) / np.ptp(moving))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"moves from 0 to 0\.4, .*counts as open at every time.*gripper_closed"):
            opened(path)
    with pytest.warns(UserWarning, match="gripper stays at 1, and therefore counts as closed at every time step"):
        opened(saved(gripper=np.ones_like(moving)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(saved())
        opened(saved(gripper=np.full_like(moving, np.nan)))


def test_episodes_without_steps(saved):
    lengths = content()["episode_length"].copy()
    lengths[1], lengths[2] = 0, lengths[1] + lengths[2]
    path = saved(episode_length=lengths, episode_start=np.cumsum(lengths) - lengths)
    with pytest.raises(BadEpisode, match=r"no time steps"):
        opened(path)
    for options in ("?short=skip", "?bad=skip"):
        with pytest.warns(UserWarning, match="left out 1 of 3"):
            assert len(opened(path, options).trajectories) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_length": np.array([167.0, 266.0, 411.0])}, "episode_length has shape .* expected integers"),
        ({"episode_length": np.array(844)}, "episode_length has shape .* expected integers"),
        ({"episode_length": np.array([2**63, 2, 3], np.uint64)}, "values from 2 to 9223372036854775808, expected 0 to"),
        ({"episode_length": np.array([-1, 2, 3])}, "values from -1 to 3, expected 0 to"),
        ({"joint_position": np.array(3.0)}, "joint_position has shape"),
        ({"joint_position": np.array(["a"] * 844)}, "joint_position has shape"),
        ({"joint_position": np.zeros((844, 7), complex)}, "joint_position has shape"),
        ({"gripper": np.array(["open"] * 844)}, "gripper has shape"),
        ({"rate_hz": np.array([15.0, 30.0])}, "rate_hz has shape"),
        ({"rate_hz": np.array("fast")}, "rate_hz has shape"),
        ({"rate_hz": np.array(np.nan)}, "rate_hz must be a number above 0"),
        ({"rate_hz": np.array(np.inf)}, "rate_hz must be a number above 0"),
        ({"rate_hz": np.array(-15.0)}, "rate_hz must be a number above 0"),
        ({"name": np.array(["a", "b"])}, "name has shape"),
        ({"source": np.array("droid")}, "source has shape"),
    ],
)
def test_arrays_of_another_kind(saved, changes, message):
    path = saved(**changes)
    with pytest.raises(BadData, match=rf"{path.name}.*{message}"):
        opened(path)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**15, 7)}
    with zipfile.ZipFile(path, "w") as file, file.open("joint_position.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, header)
        part.write(b"\0" * 800)
    with pytest.raises(BadData, match=r"bomb\.npz, joint_position: an array of shape .* needs 56000000000000\d+ bytes"):
        opened(path)


@pytest.mark.parametrize("options", ["?recorded_hz=inf", "?recorded_hz=nan", "?rate=1e9", "?rate=inf", "?rate=0"])
def test_rates_have_bounds(options):
    with pytest.raises(ValueError, match="must be a positive number"):
        opened(DROID, options)


def test_what_would_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="more than 1000 times as many time steps"):
        opened(DROID, "?recorded_hz=0.01&rate=5000")
