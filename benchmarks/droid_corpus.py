"""Write a simulated corpus in the format and of the size of lerobot/droid_1.0.1: its numbers, without videos.

Every episode is a stretch of one of `MOTIONS` paths of `SOURCE`. A share of the episodes is too short for a
chunk, a share has a row of NaN, and a share moves joint 6 beyond the Panda's limits but within the FR3's, as DROID's
FR3 arms do. meta/episodes has the columns of DROID's three cameras, since a reader has to pass over them. It has no
statistics, which are not read.

Axes: E episodes, m motions, t time steps of a motion, n rows of a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from action_heads.actions.rotations import from_matrix
from action_heads.data import RATE_HZ
from action_heads.io.files import write_text
from action_heads.kinematics import forward
from action_heads.kinematics.panda import FR3_MAX, FR3_MIN
from action_heads.pretrain import data

SOURCE, MOTIONS, STEPS = "synthetic:droid", 2000, 1024
MEAN, SPREAD, LEAST = 360, 0.5, 20  # lengths of episodes: log-normal, before they are limited to LEAST and STEPS
SHORT, BAD, FR3 = 0.01, 0.002, 0.2  # shares of the episodes
ROWS = 300_000  # of a data file; LeRobot ends a file at 100 MB, and a row of DROID has about 340 bytes
FR3_JOINT_6 = 4.3  # rad, the largest of DROID; the Panda's limit is 3.75
BEGINS = 16  # time steps of a chunk; a short episode has fewer
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CAMERAS = ("exterior_1_left", "exterior_2_left", "wrist_left")


def motions(count: int, steps: int, seed: int) -> dict[str, np.ndarray]:
    """Return the columns (m t width), float32, of distinct motions. The last share `FR3` of them is an FR3's."""
    synthetic, drawn = data.source(SOURCE, steps), torch.Generator().manual_seed(seed)
    parts: list[dict[str, np.ndarray]] = []
    for begin in range(0, count, 100):
        poses, joints = synthetic(min(100, count - begin), drawn)
        assert joints is not None
        fr3 = begin + torch.arange(len(joints)) >= (1 - FR3) * count
        joints[fr3, :, 5] += FR3_JOINT_6 - joints[fr3, :, 5].amax(1, keepdim=True)
        joints[fr3] = joints[fr3].clamp(FR3_MIN, FR3_MAX)
        position, matrix = forward(joints.double(), "flange")
        pose = torch.cat((position, from_matrix(matrix, "euler_xyz")), dim=-1)
        gripper = (poses[..., -1:] + 1) / 2
        parts.append({"joint": joints.numpy(), "cartesian": pose.float().numpy(), "gripper": gripper.numpy()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def write(folder: Path, episodes: int, distinct: int = MOTIONS, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """Write the corpus to `folder`; return its counts: episodes, steps, and short, bad and FR3 episodes."""
    rng, moved = np.random.default_rng(seed), motions(distinct, steps, seed)
    lengths = np.exp(np.log(MEAN) - SPREAD**2 / 2 + SPREAD * rng.standard_normal(episodes))
    lengths = lengths.clip(min(LEAST, steps), steps).astype(np.int64)
    short, bad = rng.random(episodes) < SHORT, rng.random(episodes) < BAD
    lengths[short] = rng.integers(1, BEGINS, int(short.sum()))
    motion = rng.integers(distinct, size=episodes)
    first = motion * steps + (rng.random(episodes) * (steps - lengths + 1)).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    files = starts // ROWS

    for file in np.unique(files):
        inside = np.flatnonzero(files == file)
        step = np.concatenate([np.arange(length) for length in lengths[inside]])
        now = {
            key: values.reshape(-1, values.shape[-1])[np.repeat(first[inside], lengths[inside]) + step]
            for key, values in moved.items()
        }
        begin = starts[inside] - starts[inside[0]]
        now["joint"][(begin + lengths[inside] // 2)[bad[inside]], 2] = np.nan
        columns = _columns(now)
        path = folder / DATA.format(chunk_index=file // 1000, file_index=file % 1000)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {
            "timestamp": (step / RATE_HZ).astype(np.float32),
            "frame_index": step,
            "episode_index": np.repeat(inside, lengths[inside]),
            "index": starts[inside[0]] + np.arange(len(step)),
            "task_index": np.zeros(len(step), np.int64),
        }
        pq.write_table(pa.table({**{name: _column(values) for name, values in columns.items()}, **rows}), path)

    widths = {name: values.shape[1] for name, values in _columns({key: m[0] for key, m in moved.items()}).items()}
    features = {name: {"dtype": "float32", "shape": [width], "names": None} for name, width in widths.items()}
    _write_meta(folder, lengths, starts, files, features)
    far = (motion >= (1 - FR3) * distinct) & ~short
    return {
        "episodes": episodes,
        "steps": int(lengths.sum()),
        "short": int(short.sum()),
        "bad": int((bad & ~short).sum()),
        "fr3": int(far.sum()),
        "files": len(np.unique(files)),
    }


def _columns(now: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return DROID's columns (n width) of a motion. The action repeats the state, since only its gripper is read."""
    names = {f"{part}.{key}_position": now[key] for part in ("observation.state", "action") for key in now}
    return names | {"observation.state": np.concatenate((now["joint"], now["gripper"]), axis=1)}


def _column(values: np.ndarray) -> pa.Array:
    """Return values (n, width) as LeRobot writes them: lists of a fixed size, or plain numbers if the width is 1."""
    flat = pa.array(values.ravel())
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_meta(folder: Path, lengths: np.ndarray, starts: np.ndarray, files: np.ndarray, features: Any) -> None:
    count, end = len(lengths), starts + lengths
    columns: dict[str, Any] = {
        "episode_index": np.arange(count),
        "tasks": [["move"]] * count,
        "length": lengths,
        "data/chunk_index": files // 1000,
        "data/file_index": files % 1000,
        "dataset_from_index": starts,
        "dataset_to_index": end,
        "meta/episodes/chunk_index": np.zeros(count, np.int64),
        "meta/episodes/file_index": np.zeros(count, np.int64),
    }
    for camera in CAMERAS:
        video = f"videos/observation.images.{camera}"
        columns |= {f"{video}/chunk_index": files // 1000, f"{video}/file_index": files % 1000}
        columns |= {f"{video}/from_timestamp": starts / RATE_HZ, f"{video}/to_timestamp": end / RATE_HZ}
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    info = {"codebase_version": "v3.0", "robot_type": "Franka", "fps": RATE_HZ, "features": features}
    info |= {"total_episodes": count, "total_frames": int(lengths.sum()), "data_path": DATA}
    write_text(folder / "meta/info.json", json.dumps(info))
