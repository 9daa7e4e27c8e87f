"""robomimic's HDF5 with pictures: `data/demo_*/obs/agentview_image` and columns beside it, `data/demo_*/actions`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.adapt.recordings import Recording
from action_heads.extras import require
from action_heads.pretrain.sources import Spec
from action_heads.pretrain.sources.raw import BadData
from action_heads.pretrain.sources.robomimic import control_hz, demonstrations, settings, widths

OWN = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")


class Hdf5Recording(Recording):
    """A file of demonstrations. Columns are those of `obs`, by their own names, and `actions`."""

    default_action = "actions"

    def __init__(self, spec: Spec):
        self.source, self.path = str(spec), Path(spec.where).expanduser()
        demos = demonstrations(self.path, self.source)
        with require("h5py", "data").File(self.path, "r") as file:
            self.rate_hz = control_hz(spec, settings(file, self.source))
            first = file["data"][demos[0]]
            self.widths = widths(first)
            images = {name: data for name, data in first.get("obs", {}).items() if data.ndim == 4}
            self.keys = {short(name): name for name, data in images.items() if data.shape[-1] == 3}
            self.cameras = {camera: images[key].shape[1:3] for camera, key in self.keys.items()}
            for name in demos:
                self._check(file["data"][name], name)
            self.lengths = np.array([len(file["data"][name]["actions"]) for name in demos])
        self.names = tuple(demos)
        self.tasks, self.task_of = (self.path.stem,), np.zeros(int(self.lengths.sum()), np.int64)
        self._open: tuple[int, Any] | None = None  # (process, file): a handle does not survive a fork

    def _check(self, demo: Any, name: str) -> None:
        """Every demonstration has the columns and pictures of the first, with as many rows."""
        parts = {key: demo["obs"][key] for key in demo.get("obs", {})} | (
            {"actions": demo["actions"]} if "actions" in demo else {}
        )
        wanted = {*self.widths, *self.keys.values(), "actions"}
        if absent := sorted(wanted - parts.keys()):
            raise BadData(f"{self.source}: {name} lacks {', '.join(absent)}")
        if len(lengths := {len(parts[key]) for key in wanted}) > 1:
            raise BadData(f"{self.source}, {name}: parts have different numbers of steps, {sorted(lengths)}")

    @property
    def file(self) -> Any:
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), require("h5py", "data").File(self.path, "r")
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}

    def column(self, name: str) -> np.ndarray:
        key = name if name == "actions" else f"obs/{name}"
        found = [np.asarray(self.file["data"][demo][key], np.float32) for demo in self.names]
        return np.concatenate([part.reshape(len(part), -1) for part in found])

    def own_state(self, seen: bool) -> tuple[str, ...]:
        return tuple(name for name in (OWN if seen else (*OWN, "object")) if name in self.widths)

    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        first, last = int(steps.min()), int(steps.max())
        data = self.file[f"data/{self.names[episode]}/obs/{self.keys[camera]}"]
        return data[first : last + 1][steps - first]


def short(name: str) -> str:
    """A camera's name: `agentview` of `agentview_image`."""
    return name.removesuffix("_image").removesuffix("_rgb")
