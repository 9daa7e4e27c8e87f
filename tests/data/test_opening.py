"""The imports that opening a source needs, and the guide to recordings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from action_heads.data import SCHEMAS, Schema, Spec, open_windows
from action_heads.data.spec import OPTIONS
from action_heads.kinematics.panda import HOME

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "recordings.md").read_text()


def test_the_panda_needs_no_extra():
    heavy = ("h5py", "lerobot", "mujoco", "pinocchio", "pyarrow", "scipy")
    code = (
        "import sys; from action_heads.pretrain import data; data.Mixture(['synthetic:panda', 'recorded:panda'], 16); "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_s_column_map_is_one(tmp_path):
    example = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "map.json").write_text(example)
    assert Schema.from_json(tmp_path / "map.json").joints == "observation.state[0:7]"
    assert set(json.loads(example)) | {"name"} == set(SCHEMAS["droid"].to_dict())


def test_the_page_names_every_option_and_schema():
    for name in (*SCHEMAS, *{option for options in OPTIONS.values() for option in options}):
        assert re.search(rf"`{name}[=`]", PAGE), name


def motion(path: Path, offset: float = 0.0) -> Spec:
    """Write four episodes of a Panda at rest, with an old time as archives give it, and return their spec."""
    rows, joints = np.arange(4) * 60, HOME.numpy() + np.float32(offset)
    path.parent.mkdir(exist_ok=True)
    np.savez(
        path,
        episode_start=rows,
        episode_length=np.full(4, 60),
        joint_position=np.tile(joints, (240, 1)),
        gripper=np.arange(240) % 2,
    )
    os.utime(path, (315532800, 315532800))
    return Spec.parse(f"npz:{path}")


def test_files_of_equal_name_size_and_time_are_told_apart(tmp_path):
    first, second = (motion(tmp_path / name / "motion.npz", offset) for name, offset in (("a", 0.0), ("b", 0.3)))
    stats = [(tmp_path / name / "motion.npz").stat() for name in "ab"]
    assert stats[0].st_size == stats[1].st_size
    tables = [open_windows(spec, 8).trajectories for spec in (first, second)]
    torch.testing.assert_close(tables[1].joints[0], HOME + 0.3)
    assert tables[0].content != tables[1].content


def test_the_content_of_a_recording_is_its_numbers_and_not_its_place(tmp_path):
    first = open_windows(motion(tmp_path / "a" / "motion.npz"), 8).trajectories
    spec = motion(tmp_path / "b" / "motion.npz")
    os.utime(tmp_path / "b" / "motion.npz")
    assert open_windows(spec, 8).trajectories.content == first.content
    slower = open_windows(Spec.parse(f"{spec}?rate=10"), 8).trajectories
    assert slower.content != first.content
