"""A reader of robomimic's HDF5 files, which MimicGen and LIBERO also write: `data/demo_*/obs` and `actions`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads._util.paths import path_of
from action_heads.data import hdf5
from action_heads.data.bounded_reads import BadData, reading, short
from action_heads.data.recording import OWN, STATES, Numbers, Recording, cameras_by_name
from action_heads.data.schema import Schema, check
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
# LIBERO's own files have the same values under other names, except for the form of the rotation.
LIBERO = replace(
    ROBOMIMIC, name="libero", joints="joint_states", position="ee_pos", rotation="ee_ori", rotation_form="axis_angle"
)
FINGERS = {"robomimic": "robot0_gripper_qpos", "libero": "gripper_states"}
# The command says open or closed, whereas fingers stop at what they hold. qpos is for files without actions.
QPOS = {"gripper_open": 0.04, "gripper_closed": 0.0}
# The default state of a Stage 2 policy in both namings. Policies without cameras also see the objects' poses.
OTHERS = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_pos", "ee_ori", "gripper_states", "joint_states"),
)
OBJECTS = "object"
MAKE = "Create the observations first, with robomimic's dataset_states_to_obs.py."


class Robomimic(Recording):
    """A file of demonstrations. Its columns are those of `obs`, by their own names, and `actions`."""

    default_action = "actions"

    def __init__(self, spec: Spec, observed: bool = False):
        self.spec, self.source, self.path = spec, str(spec), path_of(spec.where)
        self._open: tuple[int, Any] | None = None  # (process, file), since a handle does not survive a fork
        with hdf5.opened(self.path, self.source) as file:
            self.demos = hdf5.demonstrations(file, spec)
            self.arguments = hdf5.settings(file, self.source)
            self.first = hdf5.first_with_steps(file, self.demos, self.source)
            found = hdf5.columns(file["data"][self.first], f"{self.source}, {self.first}")
            self.widths = hdf5.widths(found)
            if observed:
                self._observe(file, found)
        self.rate_hz = hdf5.control_hz(spec, self.arguments)

    def paths(self) -> dict[str, Path]:
        return {self.path.name: self.path}

    @property
    def identity(self) -> list[Any]:
        return [*super().identity, self.spec.options.get("filter_key")]

    def read(self, columns: Sequence[str]) -> Iterator[list[Numbers]]:
        """Yield one demonstration after another. The file is closed in between."""
        for name in self.demos:
            where = f"{self.source}, {name}"
            with hdf5.opened(self.path, self.source) as file, reading(where, hdf5.REMEDY):
                found = self._checked(file["data"][name], where, columns)
                values = {key: hdf5.numbers(found[key], f"{where}, {key}") for key in columns if found}
            none = {key: np.zeros((0, self.widths[key])) for key in columns}
            yield [Numbers(self.path.stem, name, values or none)]

    def _checked(self, demo: Any, where: str, wanted: Iterable[str]) -> dict[str, Any]:
        """Return the columns of a demonstration; an empty dict if it has no time steps.

        Raises:
            BadData: a wanted column is missing, their numbers of rows differ, or a width is not that of the first
                demonstration.
        """
        found = hdf5.columns(demo, where)
        if not hdf5.steps(found):
            return {}
        if absent := sorted({*wanted} - found.keys()):
            raise BadData(f"{where} lacks {', '.join(absent)}; it has {', '.join(sorted(found)) or 'nothing'}.")
        lengths = {key: len(found[key]) for key in sorted(wanted)}
        if len(different := sorted({*lengths.values()})) > 1:
            raise BadData(f"{where}: columns have different numbers of rows, {different}: {lengths}.")
        widths = hdf5.widths(found)
        if other := [key for key in wanted if key in self.widths and widths.get(key) != self.widths[key]]:
            raise BadData(
                f"{where}: {other[0]} has shape {found[other[0]].shape} and dtype {found[other[0]].dtype}, expected "
                f"{self.widths[other[0]]} numbers per time step, as in {self.first}."
            )
        return found

    # ── motion ───────────────────────────────────────────────────────────────────────────────────────────────────

    def find_schema(self) -> Schema:
        """Return robomimic's or LIBERO's column map, without the columns that the file lacks."""
        found = self.widths
        schema = next(
            (s for s in (ROBOMIMIC, LIBERO) if {s.columns()[key].name for key in ("joints", "position")} & set(found)),
            None,
        )
        if schema is None:
            raise BadData(
                f"{self.source}: {self.first} has no obs/robot0_* and no joint_states or ee_pos (LIBERO), only "
                f"{', '.join(found) or 'nothing'}. {MAKE}"
            )
        robots = self._robots()
        if robots != ["Panda"] and "arm" not in self.spec.options:
            raise BadData(
                f"{self.source} was recorded with {', '.join(robots)}; name one arm by its model file, as in "
                "?arm=ARM.urdf."
            )
        choice = self.spec.options.get("gripper", "action")
        if choice not in ("action", "qpos"):
            raise ValueError(f"{self.source}: gripper must be action or qpos, but is {choice!r}.")
        if choice == "qpos":
            schema = replace(schema, gripper=f"{FINGERS[schema.name]}[0:1]", **QPOS)
        # Some files lack joints, others lack the position or the rotation. Joints are preferred.
        parts = schema.columns()
        if parts["joints"].name not in found:
            schema = replace(schema, joints=None)
        elif not {parts["position"].name, parts["rotation"].name} <= set(found):
            schema = replace(schema, position=None, rotation=None)
        return check(schema, found, self.source)

    def _robots(self) -> list[str]:
        """Return the names of the robots; the Panda if the file does not give any."""
        robots = self.arguments.get("robots") or "Panda"
        robots = [robots] if isinstance(robots, str) else robots
        if not isinstance(robots, list) or not all(isinstance(name, str) for name in robots):
            raise BadData(
                f"{self.source}: robots in env_args must be a name or a list of names, but is {short(robots)}."
            )
        return robots

    # ── observations ─────────────────────────────────────────────────────────────────────────────────────────────

    def _observe(self, file: Any, found: Mapping[str, Any]) -> None:
        """Check every demonstration. `found` are the columns of the first one with time steps."""
        if not found.keys() - {"actions"}:
            states = "only the simulation's states" if "states" in file["data"][self.first] else "no observations"
            raise BadData(f"{self.source}: {self.first} has {states}, but no obs. {MAKE}")
        images = {name: data for name, data in found.items() if data.ndim == 4 and data.shape[-1] == 3}
        self.keys = cameras_by_name(images, lambda name: name.removesuffix("_image").removesuffix("_rgb"))
        self.cameras = {camera: images[key].shape[1:3] for camera, key in self.keys.items()}
        self.keep({name: self._length(file["data"][name], f"{self.source}, {name}") for name in self.demos})
        self.demos = list(self.names)
        told = hdf5.descriptions(file, self.demos, self.spec) or [""] * len(self.demos)
        self.tasks = tuple(dict.fromkeys(told))
        self.task_of = np.repeat([self.tasks.index(text) for text in told], self.lengths)

    def _length(self, demo: Any, where: str) -> int:
        """Return the number of time steps of a demonstration. Its columns and images must be those of the first."""
        found = self._checked(demo, where, {"actions", *self.widths, *self.keys.values()})
        for camera, key in self.keys.items() if found else ():
            if found[key].shape[1:] != (*self.cameras[camera], 3) or found[key].dtype != np.uint8:
                raise BadData(
                    f"{where}: {key} has shape {found[key].shape} and dtype {found[key].dtype}, expected images "
                    f"(t, {self.cameras[camera][0]}, {self.cameras[camera][1]}, 3) of uint8, as in {self.first}."
                )
        return hdf5.steps(found)

    def default_state(self, with_images: bool) -> tuple[str, ...]:
        if {*OWN} <= self.widths.keys():
            return OWN if with_images else tuple(name for name in STATES if name in self.widths)
        arm = next((own for own in OTHERS if {*own} & self.widths.keys()), ())
        return tuple(name for name in (arm if with_images else (*arm, OBJECTS)) if name in self.widths)

    def images_of(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        first, last = int(steps.min()), int(steps.max())
        demo, key = self.names[episode], self.keys[camera]
        with reading(f"{self.source}, {demo}, {key}", hdf5.REMEDY):
            data = self.file[f"data/{demo}/obs/{key}"]
            hdf5.check_array(data, f"{self.source}, {demo}, {key}")
            return data[first : last + 1][steps - first]

    @property
    def file(self) -> Any:
        """The open file of this process."""
        if self._open is None or self._open[0] != os.getpid():
            with reading(f"{self.source}: {self.path}"):
                self._open = os.getpid(), require("h5py", "data").File(self.path, "r")
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}
