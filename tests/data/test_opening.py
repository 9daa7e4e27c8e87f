"""The imports that opening a source needs, and the guide to recordings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from action_heads.data import SCHEMAS, Schema
from action_heads.data.spec import OPTIONS

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
