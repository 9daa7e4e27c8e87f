"""Write demonstrations as an HDF5 file in the form of robomimic, and read how one was recorded.

    data/demo_<i>/actions              (t, 10) absolute targets, as in the column `action` of dataset.py
    data/demo_<i>/obs/<column>         (t, width) the other columns of dataset.py by their names
    data/demo_<i>/obs/<camera>_image   (t, size, size, 3) RGB, upright

The actions are poses (`--action-layout pose_6d`) rather than robomimic's commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.io import drafts, locks
from action_heads_lab.sim.envs import CONTROL_HZ

IMAGES = "observation.images."


def write(path: str | Path, episodes: Iterable[tuple[str, Mapping[str, Any]]], provenance: dict | list[dict]) -> Path:
    """Write episodes, each with its task description and its columns, to a new file in one piece."""
    path = Path(path)
    h5py = require("h5py", "data")
    with locks.held_beside(path, remedy="use another file"):
        if drafts.exists(path):
            raise FileExistsError(f"{path} exists. Use another file, or remove it")
        with drafts.drafted(path) as draft, h5py.File(draft, "w") as file:
            data, total = file.create_group("data"), 0
            for number, (task, table) in enumerate(episodes):
                demo = data.create_group(f"demo_{number}")
                demo["actions"] = np.asarray(table["action"])
                for name, values in table.items():
                    if name != "action":
                        short = f"{name.removeprefix(IMAGES)}_image" if name.startswith(IMAGES) else name
                        demo[f"obs/{short}"] = np.asarray(values)
                demo.attrs.update(num_samples=len(demo["actions"]), language_instruction=task)
                total += len(demo["actions"])
            data.attrs["total"] = total
            data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": CONTROL_HZ}})
            data.attrs["recording"] = json.dumps(provenance)
    return path


def provenance(path: Path) -> Any:
    """Return how a file was recorded, or None if it does not say."""
    h5py = require("h5py", "data")
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file["data"].attrs["recording"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
