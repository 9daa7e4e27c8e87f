"""robomimic's HDF5, which MimicGen and LIBERO write too: `data/demo_*/obs/...` and `data/demo_*/actions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.data import hdf5
from action_heads.data import schema as columns
from action_heads.data.raw import BadData, Raw
from action_heads.data.reading import short
from action_heads.data.schema import Schema
from action_heads.data.spec import Spec

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
# LIBERO's own files: the same numbers, but for the rotation, under other names.
LIBERO = replace(
    ROBOMIMIC, name="libero", joints="joint_states", position="ee_pos", rotation="ee_ori", rotation_form="axis_angle"
)
FINGERS = {"robomimic": "robot0_gripper_qpos", "libero": "gripper_states"}
# The command says what the hand does; the fingers stop at whatever they hold. qpos is for files without actions.
QPOS = {"gripper_open": 0.04, "gripper_closed": 0.0}


class Robomimic:
    """A file of demonstrations with low-dimensional observations."""

    normalises = False

    def __init__(self, spec: Spec):
        self.spec, self.source = spec, str(spec)
        self.path = Path(spec.where).expanduser()
        self.corpus = self.path.stem
        with hdf5.opened(self.path, self.source) as file:
            self.demos = hdf5.demonstrations(file, spec)
            arguments = hdf5.settings(file, self.source)
            first = hdf5.first_with_steps(file, self.demos, self.source)
            found = hdf5.widths(hdf5.columns(file["data"][first], f"{self.source}, {first}"))
        self.rate_hz = hdf5.control_hz(spec, arguments)
        self.schema = self._schema(found, first, arguments)
        stat = self.path.stat()
        self.identity = [self.path.name, stat.st_size, stat.st_mtime_ns]
        if key := spec.options.get("filter_key"):
            self.identity.append(key)

    def _schema(self, found: dict[str, int], first: str, arguments: dict[str, Any]) -> Schema:
        schema = next(
            (s for s in (ROBOMIMIC, LIBERO) if {s.columns()[key].name for key in ("joints", "position")} & set(found)),
            None,
        )
        if schema is None:
            raise BadData(
                f"{self.source}: {first} has no obs/robot0_*, and neither LIBERO's joint_states or ee_pos, only "
                f"{', '.join(found) or 'nothing'}: make observations first, with robomimic's dataset_states_to_obs.py"
            )
        robots = self._robots(arguments)
        if robots != ["Panda"] and "arm" not in self.spec.options:
            raise BadData(
                f"{self.source} is of {', '.join(robots)}: name one arm by its model file, as in ?arm=ARM.urdf"
            )
        choice = self.spec.options.get("gripper", "action")
        if choice not in ("action", "qpos"):
            raise ValueError(f"{self.source}: gripper is action or qpos, not {choice!r}")
        if choice == "qpos":
            schema = replace(schema, gripper=f"{FINGERS[schema.name]}[0:1]", **QPOS)
        # Some files lack joints, some have poses of one kind only: what is there decides, joints first.
        parts = schema.columns()
        if parts["joints"].name not in found:
            schema = replace(schema, joints=None)
        elif not {parts["position"].name, parts["rotation"].name} <= set(found):
            schema = replace(schema, position=None, rotation=None)
        return columns.check(schema, found, self.source)

    def _robots(self, arguments: dict[str, Any]) -> list[str]:
        """The names of the robots; the Panda where the file does not say."""
        robots = arguments.get("robots") or "Panda"
        robots = [robots] if isinstance(robots, str) else robots
        if not isinstance(robots, list) or not all(isinstance(name, str) for name in robots):
            raise BadData(
                f"{self.source}: robots in env_args must be a name or a list of names, but is {short(robots)}"
            )
        return robots

    def shards(self) -> Iterator[list[Raw]]:
        """One demonstration after another."""
        for name in self.demos:
            with hdf5.opened(self.path, self.source) as file:
                raw = self._read(file["data"][name], name)
            yield [raw]

    def _read(self, demo: Any, name: str) -> Raw:
        where = f"{self.source}, {name}"
        found = hdf5.columns(demo, where)
        if not hdf5.steps(found):
            none = np.zeros((0, 7))
            return Raw(self.corpus, name, none, none, none, none[:, 0])
        parts = {}
        for key, column in self.schema.columns().items():
            values = hdf5.numbers(found, column.name, where)
            parts[key] = values[:, column.part]
        lengths = {key: len(part) for key, part in parts.items()}
        if len(set(lengths.values())) > 1:
            raise BadData(f"{where}: parts have different numbers of steps, {lengths}")
        columns.check(self.schema, hdf5.widths(found), where)
        gripper = parts["gripper"][:, 0]
        return Raw(self.corpus, name, parts.get("joints"), parts.get("position"), parts.get("rotation"), gripper)
