"""The readers of recordings: both stages read the same numbers, and refuse the same files with the same messages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyarrow")

from lerobot_fixture import DROID, droid  # noqa: E402

from action_heads.data import BadData, BadEpisode, Spec  # noqa: E402
from action_heads.data.formats import OBSERVED, READERS, open_recording  # noqa: E402
from action_heads.kinematics.panda import HOME  # noqa: E402

JOINTS = {"lerobot": "observation.state.joint_position", "robomimic": "robot0_joint_pos"}


def robomimic(path: Path, lengths=(20, 21)) -> Path:
    with h5py.File(path, "w") as file:
        for i, steps in enumerate(lengths):
            group = file.create_group(f"data/demo_{i}")
            group["actions"] = np.ones((steps, 7))
            group["obs/robot0_joint_pos"] = HOME.numpy() + 0.01 * np.arange(steps)[:, None]
            group["obs/object"] = np.zeros((steps, 3))
    return path


def spec_of(kind: str, folder: Path, options: str = "") -> Spec:
    where = {"npz": lambda: DROID, "lerobot": lambda: droid(folder / "d"), "robomimic": lambda: robomimic(folder / "d")}
    return Spec.parse(f"{kind}:{where[kind]()}{options}")


@pytest.fixture(params=OBSERVED)
def kind(request) -> str:
    if request.param == "lerobot" and (find_spec("lerobot") is None or find_spec("lerobot.policies") is None):
        pytest.skip("needs the lerobot extra")
    return request.param


def test_both_stages_read_the_same_numbers(kind, tmp_path):
    spec = spec_of(kind, tmp_path)
    motion = [raw for shard in READERS[kind](spec).shards() for raw in shard]
    recording = open_recording(spec)
    assert recording.names == tuple(raw.name for raw in motion)
    assert recording.lengths.tolist() == [len(raw) for raw in motion]
    joints = np.concatenate([raw.joints for raw in motion])
    assert np.array_equal(recording.column(JOINTS[kind]), joints.astype(np.float32))
    part = f"{JOINTS[kind]}[2:4]"
    assert np.array_equal(recording.numbers([part, JOINTS[kind]])[:, :2], joints[:, 2:4].astype(np.float32))


@pytest.mark.parametrize("kind", ["npz", "robomimic"])
def test_the_arm_of_the_spec_is_that_of_the_map(kind, tmp_path):
    assert READERS[kind](spec_of(kind, tmp_path, "?arm=six.urdf")).schema.arm == "six.urdf"


def test_what_has_no_observations_is_refused(tmp_path):
    for text in (f"npz:{DROID}", "synthetic:panda", "recorded:panda"):
        with pytest.raises(ValueError, match=r"no observations\. Stage 2 reads lerobot:.* and robomimic:"):
            open_recording(Spec.parse(text))


def test_a_demonstration_unlike_the_first_is_refused_by_both_stages(tmp_path):
    path = robomimic(tmp_path / "d", (20, 20))
    changes = {
        r"demo_1 lacks robot0_joint_pos; it has actions, object": None,
        r"demo_1: robot0_joint_pos has shape \(20, 6\) .* 7 numbers per time step, as in demo_0": np.zeros((20, 6)),
        r"demo_1: columns have different numbers of rows, \[19, 20\]: .*'robot0_joint_pos': 19": np.zeros((19, 7)),
    }
    for message, values in changes.items():
        with h5py.File(path, "r+") as file:
            del file["data/demo_1/obs/robot0_joint_pos"]
            if values is not None:
                file["data/demo_1/obs/robot0_joint_pos"] = values
        spec = Spec.parse(f"robomimic:{path}")
        with pytest.raises(BadData, match=message):
            list(READERS["robomimic"](spec).shards())
        with pytest.raises(BadData, match=message):
            open_recording(spec)
        with h5py.File(path, "r+") as file:
            file["data/demo_1/obs"].pop("robot0_joint_pos", None)
            file["data/demo_1/obs/robot0_joint_pos"] = np.zeros((20, 7))


def test_all_episodes_empty(tmp_path):
    spec = Spec.parse(f"robomimic:{robomimic(tmp_path / 'd', (0, 0))}?short=skip")
    with pytest.raises(BadData, match="none of its 2 episodes has a time step"):
        open_recording(spec)
    with pytest.raises(BadEpisode, match=r"demo_0 has no time steps \(2 of 2 episodes\)\. .*\?short=skip"):
        open_recording(Spec.parse(f"robomimic:{spec.where}"))
