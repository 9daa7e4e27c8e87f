"""Demonstrations as a LeRobotDataset: joints, pose, gripper, delta and absolute actions, and pictures on demand.

t  steps of an episode      o  observation size

    observation.state            (o,)  what policies on states see, see `Task.observation_size`
    observation.joint_position   (7,)  rad
    observation.eef              (9,)  TCP in the robot base frame: position 3 (m), rotation 6 (first two rows)
    observation.gripper          (2,)  finger joints, m
    action                       (10,) absolute target of the TCP, as in envs.py
    action.delta                 (7,)  the same from where the TCP is: m, rotation vector (rad, base axes), gripper
    observation.images.<camera>        (size, size, 3) RGB

meta/recording.json says task, noise, seeds and how pictures were rendered.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads import files
from action_heads.extras import require
from action_heads.sim.demonstrations import Demonstrations
from action_heads.sim.envs import CONTROL_HZ, FAST_RENDERING, make
from action_heads.sim.frames import rotation_from_6d
from action_heads.sim.record import record, run_expert
from action_heads.sim.sight import columns
from action_heads.sim.tasks import description


@dataclass(frozen=True)
class RecordConfig:
    """Record demonstrations of a scripted expert as a LeRobotDataset.

    Attributes:
        task: Lift, Stack, PickPlaceCan, ...
        out: the dataset's folder.
        demos: successful episodes.
        seed: of the recording.
        cameras: such as agentview and robot0_eye_in_hand; none for states alone.
        size: of pictures, pixels.
        workers: processes of simulation.
    """

    task: str
    out: Path
    demos: int = 100
    seed: int = 0
    cameras: tuple[str, ...] = ()
    size: int = 84
    workers: int = 2


def record_dataset(config: RecordConfig) -> None:
    """`action-heads record`."""
    kept = config.out.with_name(f".{config.out.name}.npz")  # a recording is worth keeping if writing it fails
    demonstrations = record(config.task, config.demos, seed=config.seed, workers=config.workers, path=kept)
    save_dataset(demonstrations, config.out, cameras=config.cameras, size=config.size)
    kept.unlink()
    print(f"{demonstrations} in {config.out}")


def save_dataset(
    demonstrations: Demonstrations | Sequence[Demonstrations],
    folder: str | Path,
    cameras: Sequence[str] = (),
    size: int = 84,
) -> Path:
    """Write `folder`, which must not exist, through lerobot: it appears whole or not at all.

    Several recordings, of tasks whose observations are laid out alike, become one dataset of several tasks. Pictures
    are not in `demonstrations`: every episode is run again from its seed, and must come out the same.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name another folder, or remove it")
    LeRobotDataset = require("lerobot.datasets.lerobot_dataset", "lerobot").LeRobotDataset
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    recordings = [demonstrations] if isinstance(demonstrations, Demonstrations) else list(demonstrations)
    try:
        dataset = LeRobotDataset.create(
            repo_id=f"local/{folder.name}",
            fps=CONTROL_HZ,
            features=_features(recordings[0], cameras, size),
            root=draft,
            robot_type="panda",
            use_videos=False,
        )
        for recording in recordings:
            _write(dataset, recording, cameras, size)
        dataset.finalize()
        told = [_provenance(recording, cameras, size) for recording in recordings]
        files.write_text(draft / "meta" / "recording.json", json.dumps(told[0] if len(told) == 1 else told))
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(dataset: Any, demonstrations: Demonstrations, cameras: Sequence[str], size: int) -> None:
    """Add the episodes of one recording to a LeRobotDataset."""
    sim, task = make(demonstrations.task, render=True) if cameras else None, description(demonstrations.task)
    try:
        for episode, rows in enumerate(_rows(demonstrations)):
            pictures = _pictures(sim, demonstrations, episode, rows, cameras, size) if sim else {}
            table = _columns(demonstrations, rows) | pictures
            for t in range(rows.stop - rows.start):
                dataset.add_frame({name: values[t] for name, values in table.items()} | {"task": task})
            dataset.save_episode()
    finally:
        if sim:
            sim.close()


def _rows(demonstrations: Demonstrations) -> list[slice]:
    ends = np.cumsum(demonstrations.episode_length)
    return [slice(int(end - n), int(end)) for end, n in zip(ends, demonstrations.episode_length, strict=True)]


def _columns(demonstrations: Demonstrations, rows: slice) -> dict[str, np.ndarray]:
    """Of one episode: name -> (t, width) float32."""
    observation, action = demonstrations.observation[rows], demonstrations.action[rows]
    return columns(observation, demonstrations.joint_position[rows]) | {
        "action": action,
        "action.delta": np.stack([delta(a, o) for a, o in zip(action, observation, strict=True)]),
    }


def delta(action: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """An absolute target (10,) as seen from the TCP of an observation (o,): (7,) float32 in m and rad."""
    turn = rotation_from_6d(action[3:9].astype(float)) @ rotation_from_6d(observation[3:9].astype(float)).T
    step = action[:3] - observation[:3]
    return np.concatenate([step, Rotation.from_matrix(turn).as_rotvec(), action[9:]]).astype(np.float32)


def _features(demonstrations: Demonstrations, cameras: Sequence[str], size: int) -> dict[str, Any]:
    first = _columns(demonstrations, _rows(demonstrations)[0])
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": values.shape[1:], "names": None} for name, values in first.items()
    }
    picture = {"dtype": "image", "shape": (size, size, 3), "names": ["height", "width", "channels"]}
    return features | {f"observation.images.{camera}": picture for camera in cameras}


def _pictures(
    sim: Any, demonstrations: Demonstrations, episode: int, rows: slice, cameras: Sequence[str], size: int
) -> dict[str, list[np.ndarray]]:
    """What the cameras saw before every action of an episode."""
    seen: dict[str, list[np.ndarray]] = {f"observation.images.{camera}": [] for camera in cameras}

    def look() -> None:
        for camera in cameras:
            seen[f"observation.images.{camera}"].append(sim.render(size, camera))

    again = run_expert(sim, int(demonstrations.seed[episode]), demonstrations.noise, before_step=look)
    if not np.array_equal(again.action, demonstrations.action[rows]):
        raise RuntimeError(
            f"episode {episode} of {demonstrations.task} (seed {demonstrations.seed[episode]}) came out different when "
            "it was run again for its pictures: it was recorded with other versions of robosuite or mujoco; record anew"
        )
    return seen


def _provenance(demonstrations: Demonstrations, cameras: Sequence[str], size: int) -> dict[str, Any]:
    return {
        "task": demonstrations.task,
        "noise": demonstrations.noise,
        "seeds": demonstrations.seed.tolist(),
        "frame": "robot base; TCP as in action_heads.sim.frames",
        "cameras": list(cameras),
        "size": size if cameras else None,
        "rendering": FAST_RENDERING if cameras else None,
    }
