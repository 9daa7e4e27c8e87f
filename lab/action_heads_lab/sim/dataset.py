"""Write demonstrations as a LeRobotDataset or as robomimic's HDF5: joints, pose, gripper, actions, optional images.

Axes: t ticks of an episode, o observation size.

    observation.state            (o,)  observation of policies on states, see `Task.observation_size`; with cameras
                                       (11,), pose and fingers of the arm
    observation.environment_state      (o - 11,) with cameras: poses of the objects, which images should show
    observation.joint_position   (7,)  rad; (6,) for the UR5e
    observation.eef              (9,)  TCP in the robot base frame: position 3 (m), rotation 6 (first two rows)
    observation.gripper          (2,)  finger joints, m
    action                       (10,) absolute target of the TCP, as in envs.py
    action.delta                 (7,)  the same, relative to the TCP: m, rotation vector (rad, base axes), gripper
    observation.images.<camera>        (size, size, 3) RGB

meta/recording.json holds task, noise, seeds and the rendering. libero_dataset.py has LIBERO's own columns;
lerobot_file.py and robomimic_file.py write the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from action_heads._util.extras import require
from action_heads._util.flags import check_least
from action_heads.io import drafts, files, locks
from action_heads_lab.sim import lerobot_file, libero_dataset, robomimic_file
from action_heads_lab.sim.again import Images, run_again
from action_heads_lab.sim.conventions import columns
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.envs import FAST_RENDERING
from action_heads_lab.sim.frames import rotation_from_6d
from action_heads_lab.sim.lerobot_file import Columns, image_feature, provenance_of
from action_heads_lab.sim.observations import ARM, ENVIRONMENT, STATE, set_apart
from action_heads_lab.sim.record import SEEDS, record
from action_heads_lab.sim.tasks import description, get_recorded, get_task


@dataclass(frozen=True)
class RecordConfig:
    """Record demonstrations of a scripted expert as a LeRobotDataset, or as HDF5 of robomimic.

    Attributes:
        task: task to record: Lift, Stack, PickPlaceCan, two_cubes, ... of robosuite, libero_object/0, ... of LIBERO, or
            stack_d1, coffee_d2, ... of MimicGen.
        out: folder of the dataset, or an .hdf5 file of robomimic.
        demos: number of successful episodes.
        seed: seed of the recording.
        cameras: cameras to record, such as agentview and robot0_eye_in_hand; none records states only.
        size: height and width of images in pixels.
        workers: number of simulation processes; by default one per core.
        schema: own, or libero for the cameras, states and actions of `lerobot-eval --env.type=libero` (LIBERO tasks
            only).
    """

    task: str
    out: Path
    demos: int = 100
    seed: int = 0
    cameras: tuple[str, ...] = ()
    size: int = 84
    workers: int | None = None
    schema: Literal["own", "libero"] = "own"

    def __post_init__(self) -> None:
        check_least(self, 1, "demos", "size", "workers")
        check_least(self, 0, "seed")
        get_recorded(self.task)
        if self.schema == "libero" and self.is_file:
            raise ValueError(f"--schema libero writes a LeRobotDataset, but {self.out} is an HDF5 file. Give a folder")
        if self.schema == "libero" and (get_task(self.task).suite != "libero" or self.cameras):
            raise ValueError(
                f"--schema libero needs a LIBERO task and records both of its cameras, but the task is {self.task} and "
                f"--cameras is {', '.join(self.cameras) or 'none'}. Use libero_object/0 ... 9 and leave --cameras out"
            )

    @property
    def is_file(self) -> bool:
        """True if `out` is a file of robomimic."""
        return self.out.suffix in (".hdf5", ".h5")


def record_dataset(config: RecordConfig) -> None:
    """Run `action-heads record`: record demonstrations and write them as a dataset."""
    kept = config.out.with_name(f".{config.out.name}.npz")  # kept in case that writing the dataset fails
    with locks.held_beside(config.out):
        if drafts.exists(config.out):  # checked before anything is recorded
            refuse_others(config)
            if drafts.exists(kept):
                kept.unlink()
            print(f"{config.out} already holds this recording")
            return
        if config.is_file:
            require("h5py", "data")
        else:
            require("lerobot.datasets.lerobot_dataset", "lerobot")
        demonstrations = record(config.task, config.demos, seed=config.seed, workers=config.workers, path=kept)
        if config.schema == "libero":
            libero_dataset.save_libero(demonstrations, config.out, size=config.size, workers=config.workers)
        else:
            save_dataset(demonstrations, config.out, config.cameras, config.size, config.workers)
        kept.unlink()
    print(f"{demonstrations} in {config.out}")


def refuse_others(config: RecordConfig) -> None:
    """Raise unless the folder holds exactly the recording that these settings make."""
    record_file = config.out / "meta" / "recording.json"
    if config.is_file:
        found = robomimic_file.provenance(config.out)
    else:
        found = files.read_json(record_file) if record_file.exists() else None
    cameras = list(libero_dataset.CAMERAS) if config.schema == "libero" else list(config.cameras)
    wanted = {
        "task": config.task,
        "noise": get_task(config.task).noise,
        "cameras": cameras,
        "size": config.size if cameras else None,
    }
    seeds = found.get("seeds") if isinstance(found, dict) else None
    same = isinstance(found, dict) and all(found.get(name) == value for name, value in wanted.items())
    if not same or not seeds or (len(seeds), seeds[0] // SEEDS - 1) != (config.demos, config.seed):
        raise FileExistsError(f"{config.out} exists and holds something else. Use another folder, or remove it")


def save_dataset(
    demonstrations: Demonstrations | Sequence[Demonstrations],
    folder: str | Path,
    cameras: Sequence[str] = (),
    size: int = 84,
    workers: int | None = None,
) -> Path:
    """Write recordings to a new folder as one dataset, or to a new .hdf5 file, in one piece.

    Several recordings must have observations of the same layout. `demonstrations` have no images, so every episode is
    run again from its seed to render them, and must give the same actions. This happens in `workers` processes, by
    default one per core, so a script that calls this with cameras needs `if __name__ == "__main__":`. The result does
    not depend on their number.
    """
    recordings = [demonstrations] if isinstance(demonstrations, Demonstrations) else list(demonstrations)

    def episodes() -> Iterable[tuple[str, Columns]]:
        for recording in recordings:
            rows = _rows(recording)
            images = run_again(recording, workers, Images, recording.task, cameras, size) if cameras else None
            for episode in range(len(recording)):
                seen = next(images) if images else {}
                task = description(recording.task, int(recording.seed[episode]))
                yield task, _columns(recording, rows[episode], bool(cameras)) | seen

    rendering = FAST_RENDERING if cameras else None
    sources = [provenance_of(recording, cameras, size, rendering) for recording in recordings]
    source = sources[0] if len(sources) == 1 else sources
    if Path(folder).suffix in (".hdf5", ".h5"):
        return robomimic_file.write(folder, episodes(), source)
    return lerobot_file.write(folder, _features(recordings, cameras, size), episodes(), source)


def _rows(demonstrations: Demonstrations) -> list[slice]:
    ends = np.cumsum(demonstrations.episode_length)
    return [slice(int(end - n), int(end)) for end, n in zip(ends, demonstrations.episode_length, strict=True)]


def _columns(demonstrations: Demonstrations, rows: slice, apart: bool) -> dict[str, np.ndarray]:
    """Return an episode by column, (t, width) float32. `apart` puts the poses of objects in a column of their own."""
    observation, action = demonstrations.observation[rows], demonstrations.action[rows]
    seen = columns(observation, demonstrations.joint_position[rows])
    if apart:
        seen = set_apart(seen)
    else:
        del seen[ENVIRONMENT]
    return seen | {
        "action": action,
        "action.delta": np.stack([delta(a, o) for a, o in zip(action, observation, strict=True)]),
    }


def delta(action: np.ndarray, observation: np.ndarray) -> np.ndarray:
    """Return an absolute target (10,) relative to the TCP of an observation (o,): (7,) float32 in m and rad."""
    turn = rotation_from_6d(action[3:9].astype(float)) @ rotation_from_6d(observation[3:9].astype(float)).T
    step = action[:3] - observation[:3]
    return np.concatenate([step, Rotation.from_matrix(turn).as_rotvec(), action[9:]]).astype(np.float32)


def _features(recordings: Sequence[Demonstrations], cameras: Sequence[str], size: int) -> dict[str, Any]:
    first = _columns(recordings[0], _rows(recordings[0])[0], bool(cameras))
    names = _names(recordings)
    names |= {STATE: names[STATE][:ARM]} if cameras else {}
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": values.shape[1:], "names": names.get(name)}
        for name, values in first.items()
    }
    return features | {f"observation.images.{camera}": image_feature(size) for camera in cameras}


def _names(recordings: Sequence[Demonstrations]) -> dict[str, list[str]]:
    """Return the names of the numbers of an observation. Objects are numbered if recordings differ in them."""
    rotation = [f"r{row}{column}" for row in (1, 2) for column in (1, 2, 3)]
    eef, fingers = ["x", "y", "z", *rotation], ["finger_left", "finger_right"]
    several = {get_task(recording.task).objects for recording in recordings}
    objects = next(iter(several))
    if len(several) > 1:
        objects = [f"object_{i}" for i in range(1, len(objects) + 1)]
    about = ["x", "y", "z", *rotation, "x_from_tcp", "y_from_tcp", "z_from_tcp"]
    environment = [f"{name}.{part}" for name in objects for part in about]
    return {
        STATE: [*eef, *fingers, *environment],
        ENVIRONMENT: environment,
        "observation.eef": eef,
        "observation.gripper": fingers,
        "observation.joint_position": [f"joint_{i}" for i in range(1, recordings[0].joint_position.shape[1] + 1)],
    }
