"""robomimic's HDF5 with pictures: `data/demo_*/obs/agentview_image` and columns beside it, `data/demo_*/actions`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.data import Spec, hdf5
from action_heads.data.raw import BadData
from action_heads.data.reading import reading
from action_heads.data.recordings import Recording

ROBOSUITE = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
LIBERO = ("ee_pos", "ee_ori", "gripper_states", "joint_states")  # LIBERO's own files
OBJECTS = "object"  # where they lie: for a policy without cameras


class Hdf5Recording(Recording):
    """A file of demonstrations. Columns are those of `obs`, by their own names, and `actions`."""

    default_action = "actions"

    def __init__(self, spec: Spec):
        self.spec, self.source, self.path = spec, str(spec), Path(spec.where).expanduser()
        with hdf5.opened(self.path, self.source) as file:
            demos = hdf5.demonstrations(file, spec)
            arguments = hdf5.settings(file, self.source)
            first = hdf5.first_with_steps(file, demos, self.source)
            found = hdf5.columns(file["data"][first], f"{self.source}, {first}")
            self._check_observations(file["data"][first], first, found)
            self.widths = hdf5.widths(found)
            images = {name: data for name, data in found.items() if data.ndim == 4 and data.shape[-1] == 3}
            self.keys = camera_names(images)
            self.cameras = {camera: images[key].shape[1:3] for camera, key in self.keys.items()}
            lengths = {name: self._length(file["data"][name], name) for name in demos}
            demos = [name for name in demos if lengths[name]]
            if not demos:
                raise BadData(f"{self.source}: none of its {len(lengths)} demonstrations has a step")
            self.lengths = np.array([lengths[name] for name in demos])
            told = hdf5.descriptions(file, demos, spec) or [self.path.stem] * len(demos)
        self.rate_hz = hdf5.control_hz(spec, arguments)
        self.names = tuple(demos)
        self.tasks = tuple(dict.fromkeys(told))
        self.task_of = np.repeat([self.tasks.index(text) for text in told], self.lengths)
        self._open: tuple[int, Any] | None = None  # (process, file): a handle does not survive a fork

    def _check_observations(self, demo: Any, name: str, found: dict[str, Any]) -> None:
        if not found.keys() - {"actions"}:
            states = "only the simulation's states" if "states" in demo else "no observations"
            raise BadData(
                f"{self.source}: {name} has {states}, no obs: make observations first, with robomimic's "
                "dataset_states_to_obs.py"
            )

    def _length(self, demo: Any, name: str) -> int:
        """The steps of a demonstration, which must have the columns and pictures of the first, a row a step."""
        where = f"{self.source}, {name}"
        found = hdf5.columns(demo, where)
        if not (count := hdf5.steps(found)):
            if not {"skip"} & {self.spec.options.get(key) for key in ("short", "bad")}:
                hdf5.check_length(count, self.spec, name)
            return 0
        if absent := sorted({*self.widths, *self.keys.values(), "actions"} - found.keys()):
            raise BadData(f"{self.source}: {name} lacks {', '.join(absent)}")
        if len(lengths := {len(found[key]) for key in (*self.widths, *self.keys.values())}) > 1:
            raise BadData(f"{where}: parts have different numbers of steps, {sorted(lengths)}")
        widths = hdf5.widths(found)
        if other := [key for key, width in self.widths.items() if widths.get(key) != width]:
            raise BadData(
                f"{where}: {other[0]} has shape {found[other[0]].shape} and type {found[other[0]].dtype}, where "
                f"{self.widths[other[0]]} numbers a step are expected"
            )
        for camera, key in self.keys.items():
            if found[key].shape[1:] != (*self.cameras[camera], 3) or found[key].dtype != np.uint8:
                raise BadData(
                    f"{where}: {key} has shape {found[key].shape} and type {found[key].dtype}, where pictures "
                    f"(t, {self.cameras[camera][0]}, {self.cameras[camera][1]}, 3) of uint8 are expected"
                )
        return count

    @property
    def file(self) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            with reading(f"{self.source}: {self.path}"):
                self._open = os.getpid(), require("h5py", "data").File(self.path, "r")
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}

    def column(self, name: str) -> np.ndarray:
        parts = []
        for demo in self.names:
            where = f"{self.source}, {demo}"
            with reading(where, "the file is damaged: copy or download it again"):
                found = hdf5.columns(self.file["data"][demo], where)
                parts.append(hdf5.numbers(found, name, where).astype(np.float32))
        return np.concatenate(parts)

    def own_state(self, seen: bool) -> tuple[str, ...]:
        arm = next((own for own in (ROBOSUITE, LIBERO) if {*own} & self.widths.keys()), ())
        return tuple(name for name in (arm if seen else (*arm, OBJECTS)) if name in self.widths)

    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        first, last = int(steps.min()), int(steps.max())
        demo, key = self.names[episode], self.keys[camera]
        with reading(f"{self.source}, {demo}, {key}", "the file is damaged: copy or download it again"):
            data = self.file[f"data/{demo}/obs/{key}"]
            hdf5.check_array(data, f"{self.source}, {demo}, {key}")
            return data[first : last + 1][steps - first]


def camera_names(keys: Iterable[str]) -> dict[str, str]:
    """Camera -> its column: `agentview` for `agentview_image`; the whole name where two would be called the same."""
    keys = list(keys)
    names = [key.removesuffix("_image").removesuffix("_rgb") for key in keys]
    return {name if names.count(name) == 1 else key: key for name, key in zip(names, keys, strict=True)}
