"""Write episodes as a LeRobotDataset, and say how a dataset was recorded.

Axes: t ticks of an episode.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.io import drafts, files, locks
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import CONTROL_HZ

Columns = Mapping[str, Sequence[np.ndarray] | np.ndarray]  # one episode: name -> t values


def write(
    folder: str | Path, features: dict[str, Any], episodes: Iterable[tuple[str, Columns]], provenance: dict | list[dict]
) -> Path:
    """Write a LeRobotDataset of episodes, each with its task description, in one piece."""
    folder = Path(folder)
    LeRobotDataset = require("lerobot.datasets.lerobot_dataset", "lerobot").LeRobotDataset
    with locks.held_beside(folder, remedy="use another folder"):
        if drafts.exists(folder):
            raise FileExistsError(f"{folder} exists. Use another folder, or remove it")
        with drafts.drafted(folder) as draft:
            settings = {"features": features, "fps": CONTROL_HZ, "robot_type": "panda", "use_videos": False}
            # No video is read here, and LeRobot prints a traceback if it looks for a decoder that cannot be loaded.
            settings["video_backend"] = "pyav"
            dataset = LeRobotDataset.create(repo_id=f"local/{draft.name}", root=draft, **settings)
            for task, table in episodes:
                for values in zip(*table.values(), strict=True):
                    dataset.add_frame(dict(zip(table, values, strict=True)) | {"task": task})
                dataset.save_episode()
            dataset.finalize()
            files.write_text(draft / "meta" / "recording.json", json.dumps(provenance))
    return folder


def image_feature(size: int) -> dict[str, Any]:
    """Return the feature of a camera for LeRobot."""
    return {"dtype": "image", "shape": (size, size, 3), "names": ["height", "width", "channels"]}


def provenance_of(
    demonstrations: Demonstrations, cameras: Sequence[str], size: int, rendering: dict[str, Any] | None
) -> dict[str, Any]:
    """Return how a dataset was recorded, for meta/recording.json."""
    return {
        "task": demonstrations.task,
        "noise": demonstrations.noise,
        "seeds": demonstrations.seed.tolist(),
        "frame": "robot base; TCP as in action_heads_lab.sim.frames",
        "cameras": list(cameras),
        "size": size if cameras else None,
        "rendering": rendering,
    }
