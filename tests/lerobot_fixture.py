"""Writers of LeRobotDatasets of version 3 that need no lerobot, in the layout of lerobot 0.6.1, without statistics.

The layout was compared by hand with lerobot's: same files, same column names and types, same order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DROID = Path(__file__).parent / "data" / "droid_3_episodes.npz"


def write(folder: Path, episodes: Sequence[dict[str, np.ndarray]], fps: int, a_file: int = 2, **info: Any) -> Path:
    """Write episodes, each column (t, width), as a dataset in `folder`, with `a_file` episodes in each data file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {
        name: {"dtype": "float32", "shape": [values.shape[1]], "names": None} for name, values in episodes[0].items()
    }
    rows, start, data_path = [], 0, "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    for begin in range(0, len(episodes), a_file):
        tables = []
        for index in range(begin, min(begin + a_file, len(episodes))):
            episode = episodes[index]
            length = len(next(iter(episode.values())))
            columns: dict[str, Any] = {}
            for name, values in episode.items():
                values = values.astype(np.float32)
                # A feature of one number is a plain column, without lists.
                columns[name] = (
                    pa.array(values[:, 0])
                    if values.shape[1] == 1
                    else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
                )
            columns["timestamp"] = pa.array((np.arange(length) / fps).astype(np.float32))
            columns["frame_index"] = pa.array(np.arange(length))
            columns["episode_index"] = pa.array(np.full(length, index))
            columns["index"] = pa.array(start + np.arange(length))
            columns["task_index"] = pa.array(np.zeros(length, np.int64))
            tables.append(pa.table(columns))
            rows.append(
                {
                    "episode_index": index,
                    "tasks": ["move"],
                    "length": length,
                    "data/chunk_index": 0,
                    "data/file_index": begin // a_file,
                    "dataset_from_index": start,
                    "dataset_to_index": start + length,
                }
            )
            start += length
        path = folder / data_path.format(chunk_index=0, file_index=begin // a_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), path)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    record = {
        "codebase_version": "v3.0",
        "fps": fps,
        "features": features,
        "total_episodes": len(episodes),
        "total_frames": start,
        "data_path": data_path,
    }
    (folder / "meta/info.json").write_text(json.dumps(record | info))
    return folder


def droid_episodes() -> list[dict[str, np.ndarray]]:
    """Return three real episodes with the low-dimensional columns of lerobot/droid_1.0.1."""
    data = np.load(DROID, allow_pickle=False)
    names = {
        "observation.state.joint_position": "joint_position",
        "observation.state.cartesian_position": "cartesian_position",
        "action.joint_position": "action_joint_position",
        "action.cartesian_position": "action_cartesian_position",
    }
    episodes = []
    for start, length in zip(data["episode_start"], data["episode_length"], strict=True):
        now = slice(start, start + length)
        episode = {column: data[key][now] for column, key in names.items()}
        episode["observation.state.gripper_position"] = data["gripper"][now, None]
        # The file holds only the gripper's state, which here stands in for the command that the schema reads.
        episode["action.gripper_position"] = data["gripper"][now, None]
        episode["observation.state"] = np.concatenate((data["joint_position"][now], data["gripper"][now, None]), axis=1)
        episodes.append(episode)
    return episodes


def droid(folder: Path, **info: Any) -> Path:
    """Write the three DROID episodes as a dataset of two data files."""
    return write(folder, droid_episodes(), 15, **info)
