"""robomimic's HDF5, which MimicGen writes too: `data/demo_*/obs/robot0_*` and `data/demo_*/actions`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.extras import require
from action_heads.pretrain.sources import schema as columns
from action_heads.pretrain.sources.raw import BadData, Raw
from action_heads.pretrain.sources.schema import Schema
from action_heads.pretrain.sources.spec import Spec

RATE_HZ = 20.0  # robosuite's control frequency, where a file does not name its own

ROBOMIMIC = Schema(
    "robomimic",
    joints="robot0_joint_pos",
    position="robot0_eef_pos",
    rotation="robot0_eef_quat",
    gripper="actions[-1:]",
    gripper_open=-1.0,
    gripper_closed=1.0,
    frame="robosuite_eef",
    world=True,
)
# The command says what the hand does; the fingers stop at whatever they hold. qpos is for files without actions.
QPOS = {"gripper": "robot0_gripper_qpos[0:1]", "gripper_open": 0.04, "gripper_closed": 0.0}


class Robomimic:
    """A file of demonstrations with low-dimensional observations."""

    def __init__(self, spec: Spec):
        self.spec, self.source = spec, str(spec)
        self.path = Path(spec.where).expanduser()
        self.demos = demonstrations(self.path, self.source)
        self.corpus = self.path.stem
        stat = self.path.stat()
        self.identity = [self.path.name, stat.st_size, stat.st_mtime_ns]
        with require("h5py", "data").File(self.path, "r") as file:
            arguments = settings(file, self.source)
            self.rate_hz = control_hz(spec, arguments)
            self.schema = self._schema(widths(file["data"][self.demos[0]]), arguments)

    def _schema(self, found: dict[str, int], arguments: dict[str, Any]) -> Schema:
        if not any(name.startswith("robot0_") for name in found):
            raise BadData(
                f"{self.source}: {self.demos[0]} has no obs/robot0_*, only {', '.join(found) or 'nothing'}: make "
                "observations first, with robomimic's dataset_states_to_obs.py"
            )
        robots = np.atleast_1d(arguments.get("robots", "Panda")).tolist()
        if robots != ["Panda"] and "arm" not in self.spec.options:
            raise BadData(
                f"{self.source} is of {', '.join(robots)}: name one arm by its model file, as in ?arm=ARM.urdf"
            )
        schema = ROBOMIMIC
        choice = self.spec.options.get("gripper", "action")
        if choice not in ("action", "qpos"):
            raise ValueError(f"{self.source}: gripper is action or qpos, not {choice!r}")
        if choice == "qpos":
            schema = replace(schema, **QPOS)
        # Some files lack joints, some have poses of one kind only: what is there decides, joints first.
        if "robot0_joint_pos" not in found:
            schema = replace(schema, joints=None)
        elif not {"robot0_eef_pos", "robot0_eef_quat"} <= set(found):
            schema = replace(schema, position=None, rotation=None)
        return columns.check(schema, found, self.source)

    def shards(self) -> Iterator[list[Raw]]:
        """One demonstration after another."""
        h5py = require("h5py", "data")
        with h5py.File(self.path, "r") as file:
            for name in self.demos:
                yield [self._read(file["data"][name], name)]

    def _read(self, demo: Any, name: str) -> Raw:
        columns.check(self.schema, widths(demo), f"{self.source}, {name}")
        parts = {}
        for key, column in self.schema.columns().items():
            values = np.asarray(demo["actions"] if column.name == "actions" else demo["obs"][column.name], np.float64)
            parts[key] = values.reshape(len(values), -1)[:, column.part]
        lengths = {key: len(part) for key, part in parts.items()}
        if len(set(lengths.values())) > 1:
            raise BadData(f"{self.source}, {name}: parts have different numbers of steps, {lengths}")
        gripper = parts["gripper"][:, 0]
        return Raw(self.corpus, name, parts.get("joints"), parts.get("position"), parts.get("rotation"), gripper)


def demonstrations(path: Path, source: str) -> list[str]:
    """The names of a file's demonstrations, by number."""
    if not path.exists():
        raise FileNotFoundError(f"{source}: there is no file {path}")
    h5py = require("h5py", "data")
    if not h5py.is_hdf5(path):
        raise BadData(f"{source}: {path} is no HDF5 file")
    with h5py.File(path, "r") as file:
        demos = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)] if "data" in file else []
    if not demos:
        raise BadData(f"{source} has no data/demo_*: it is no robomimic dataset, or an empty one")
    return sorted(demos, key=lambda name: int(name.split("_")[1]))


def settings(file: Any, source: str) -> dict[str, Any]:
    """The environment's arguments that a file carries."""
    try:
        return json.loads(dict(file["data"].attrs).get("env_args", "{}")).get("env_kwargs", {})
    except ValueError as error:
        raise BadData(f"{source}: the attribute env_args is not JSON: {error}") from error


def control_hz(spec: Spec, arguments: dict[str, Any]) -> float:
    """Steps a second: as told, or as the file says."""
    return spec.number("recorded_hz", float(arguments.get("control_freq", RATE_HZ)))


def widths(demo: Any) -> dict[str, int]:
    """Low-dimensional observations and actions of a demonstration -> how many numbers each has a step."""
    found = dict(demo["obs"].items()) if "obs" in demo else {}
    if "actions" in demo:
        found["actions"] = demo["actions"]
    return {name: int(np.prod(data.shape[1:])) for name, data in found.items() if data.ndim <= 2}
