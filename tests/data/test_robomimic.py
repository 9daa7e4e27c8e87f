"""The reader of robomimic's HDF5: it prefers joints, and otherwise reads robosuite's pose."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

h5py = pytest.importorskip("h5py")

from action_heads.actions.rotations import from_matrix  # noqa: E402
from action_heads.data import BadData, Spec, open_windows  # noqa: E402
from action_heads.kinematics import forward, synthetic_chunks  # noqa: E402

BASE = np.array([-0.56, 0.0, 0.912])


def write(path, demos=4, without=(), robots="Panda", **parts):
    """Write demonstrations of 40 to 43 time steps, of an arm on robosuite's pedestal."""
    chunks = synthetic_chunks(64, 43, 20.0, torch.Generator().manual_seed(0))[0].double()
    moving = chunks[chunks.diff(dim=1).abs().sum((1, 2)).argsort(descending=True)]
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20, "robots": robots}})
        for i in range(demos):
            joints = moving[i, : 40 + i]
            position, matrix = forward(joints, "robosuite_eef")
            obs = {
                "robot0_joint_pos": joints.numpy(),
                "robot0_eef_pos": position.numpy() + BASE,
                "robot0_eef_quat": from_matrix(matrix, "quaternion").numpy(),
                "robot0_gripper_qpos": np.linspace([0.04, -0.04], [0, 0], len(joints)),
                "agentview_image": np.zeros((len(joints), 2, 2, 3), np.uint8),
            }
            group = file.create_group(f"data/demo_{i + 8}")
            for name, values in (obs | parts).items():
                if name not in without:
                    group[f"obs/{name}"] = values
            if "actions" not in without:
                group["actions"] = np.where(np.arange(len(joints)) < 10, -1.0, 1.0)[:, None] * np.ones(7)
    return path


def opened(path, options="?rate=native", split="all"):
    return open_windows(Spec.parse(f"robomimic:{path}{options}"), 16, split)


def test_joints_and_the_action_s_gripper(tmp_path):
    windows = opened(write(tmp_path / "lift.hdf5"))
    table = windows.trajectories
    assert table.names == ("demo_8", "demo_9", "demo_10", "demo_11")  # by number, not by letter
    assert table.lengths.tolist() == [40, 41, 42, 43]
    assert table.rate_hz == 20
    assert table.poses is None
    assert table.gripper[:12].tolist() == [-1.0] * 10 + [1.0] * 2


def test_poses_alone_are_the_same_motion(tmp_path):
    whole, bare = write(tmp_path / "a.hdf5"), write(tmp_path / "b.hdf5", without=("robot0_joint_pos",))
    with pytest.raises(BadData, match="world frame"):
        opened(bare)
    poses = opened(bare, f"?rate=native&base={','.join(map(str, BASE))}")
    index = torch.arange(len(poses))
    torch.testing.assert_close(poses[index].poses, opened(whole)[index].poses, atol=1e-6, rtol=0)
    assert opened(write(tmp_path / "c.hdf5", without=("robot0_eef_quat",)))[index].joints is not None


def test_gripper_from_the_fingers(tmp_path):
    path = write(tmp_path / "a.hdf5", without=("actions",))
    with pytest.raises(ValueError, match=r"gripper \(actions\)"):
        opened(path)
    gripper = opened(path, "?gripper=qpos&rate=native").trajectories.gripper[:40]
    assert gripper.tolist() == [-1.0] * 20 + [1.0] * 20


def test_resampled_to_the_common_rate_by_default(tmp_path):
    table = opened(write(tmp_path / "a.hdf5"), "").trajectories
    assert table.rate_hz == 15
    assert table.lengths.tolist() == [30, 31, 31, 32]


def test_a_quaternion_of_another_order_is_found_out(tmp_path):
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["obs/robot0_eef_quat"][...] = np.roll(demo["obs/robot0_eef_quat"][...], 1, axis=1)
    with pytest.raises(BadData, match=r'episode demo_8: .*They agree with "rotation_form": "quaternion_wxyz"'):
        opened(path)


def test_errors_teach(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        opened(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(BadData, match="not an HDF5 file"):
        opened(tmp_path / "text.hdf5")
    with pytest.raises(BadData, match=r"no data/demo_\*"):
        opened(write(tmp_path / "empty.hdf5", demos=0))
    observations = [f"robot0_{name}" for name in ("joint_pos", "eef_pos", "eef_quat", "gripper_qpos")]
    with pytest.raises(BadData, match=r"demo_8 has no obs/robot0_\*.*dataset_states_to_obs"):
        opened(write(tmp_path / "raw.hdf5", without=observations))
    for robots in ("Sawyer", ["Panda", "Panda"]):
        with pytest.raises(BadData, match=r"name one arm by its model file"):
            opened(write(tmp_path / "other.hdf5", robots=robots))
    with pytest.raises(ValueError, match="action or qpos"):
        opened(write(tmp_path / "a.hdf5"), "?gripper=both")
    with pytest.raises(BadData, match="demo_8: columns have different numbers of rows"):
        opened(write(tmp_path / "ragged.hdf5", robot0_eef_pos=np.zeros((5, 3))))
