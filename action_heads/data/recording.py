"""The base class of recordings on disk: numeric columns and, for Stage 2, images. Each format has one subclass.

Axes: N rows of all episodes end to end, E episodes, t time steps of one episode, s requested time steps, d numbers, H
height and W width in pixels.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from action_heads.data.bounded_reads import BadData, BadEpisode, left_out, no_steps
from action_heads.data.motion import Raw
from action_heads.data.schema import Column, Schema, listed
from action_heads.data.spec import Spec
from action_heads.io.contents import sampled

# The robot's own state in recordings of `action-heads record`, in whatever format. Their observation.state also
# contains the objects.
OWN = ("observation.eef", "observation.gripper")
STATES = ("observation.state", "observation.environment_state")


class Numbers(NamedTuple):
    """The numeric columns of one episode."""

    corpus: str  # A share of every corpus is held out.
    name: str
    columns: Mapping[str, np.ndarray]  # (t, width) float64


class Recording(ABC):
    """A recording of one file format.

    Attributes:
        source: its spec, for messages.
        widths: numeric columns and the number of values in each.
        rate_hz: recorded rate in Hz.
        normalises: whether LeRobot records this robot's joints from -100 to 100 by default.

    The following attributes exist only if it was opened with `observed=True`.

    Attributes:
        cameras: names, with (height, width).
        lengths: number of time steps (E,) of each episode that has any.
        names: names (E,) of these episodes.
        tasks: task texts; a single "" if the files have none.
        task_of: index (N,) into `tasks` of each row.
        default_action: name of the action's column.
    """

    spec: Spec
    source: str
    widths: dict[str, int]
    rate_hz: float
    normalises: bool = False
    skipped: Mapping[str, str] = {}  # the problem of each episode that was left out, by its name
    cameras: dict[str, tuple[int, int]]
    lengths: np.ndarray
    names: tuple[str, ...]
    tasks: tuple[str, ...]
    task_of: np.ndarray
    default_action: str

    @abstractmethod
    def __init__(self, spec: Spec, observed: bool = False):
        """Open a recording for its motion only, or for its observations too."""

    @abstractmethod
    def paths(self) -> dict[str, Path]:
        """Return the files of the numeric columns, by a name that does not depend on where the recording lies."""

    @abstractmethod
    def find_schema(self) -> Schema:
        """Return the column map of the motion."""

    @abstractmethod
    def read(self, columns: Sequence[str]) -> Iterator[list[Numbers]]:
        """Yield the columns of all episodes, one file at a time, so that only one file is in memory."""

    @property
    def identity(self) -> list[Any]:
        """JSON value that identifies the files, for a cache on this machine: it changes whenever they do.

        Size and time alone would not do. Files of equal size have equal times if an archive was unpacked or a build
        sets all times. The hash alone would not do either, since it skips parts of large files.
        """
        return [[name, path.stat().st_mtime_ns, sampled(path)] for name, path in self.paths().items()]

    @property
    def bad(self) -> Mapping[str, str]:
        """The problem of each episode whose rows are not evenly spaced, by its name, in the files read so far."""
        return {}

    # ── motion, which Stage 1 reads ──────────────────────────────────────────────────────────────────────────────

    @cached_property
    def schema(self) -> Schema:
        """Column map of the motion, with the arm that the spec names."""
        schema, arm = self.find_schema(), self.spec.options.get("arm")
        return schema if arm is None else replace(schema, arm=arm)

    def shards(self) -> Iterator[list[Raw]]:
        """Yield the motion of all episodes, one file at a time."""
        names = list(dict.fromkeys(column.name for column in self.schema.columns().values()))
        for shard in self.read(names):
            yield [Raw.of(episode.corpus, episode.name, episode.columns, self.schema) for episode in shard]

    # ── observations, which Stage 2 reads ────────────────────────────────────────────────────────────────────────

    def image_paths(self, cameras: Sequence[str]) -> dict[str, Path]:
        """Return the files of these cameras' images, by name as in `paths`."""
        return self.paths()

    def images_of(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Read the images (s, H, W, 3) uint8 of sorted time steps (s,) of an episode."""
        raise NotImplementedError

    def default_state(self, with_images: bool) -> tuple[str, ...]:
        """Return the columns of a policy's default state. If the policy sees images, only those of the robot."""
        raise NotImplementedError

    def column_names(self, name: str) -> Sequence[str] | None:
        """Return the names of a column's values, or None if the files do not give them."""
        return None

    def column(self, name: str) -> np.ndarray:
        """Read a whole column (N, width), float32."""
        return self.whole([name])[name]

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """Read columns and parts of columns, such as `observation.state[0:7]`, and concatenate them (N, d)."""
        columns = [Column.parse(text) for text in texts]
        found = self.whole([column.name for column in columns])
        return np.concatenate([found[column.name][:, column.part] for column in columns], axis=1)

    def whole(self, names: Sequence[str], dtype: type = np.float32) -> dict[str, np.ndarray]:
        """Read whole columns (N, width) by name."""
        found: dict[str, np.ndarray] = {}
        starts = dict(zip(self.names, np.cumsum(self.lengths) - self.lengths, strict=True))
        for shard in self.read(list(dict.fromkeys(names))):
            for episode in shard:
                for name, values in episode.columns.items() if episode.name in starts else ():
                    if name not in found:
                        found[name] = np.empty((int(self.lengths.sum()), values.shape[1]), dtype)
                    found[name][starts[episode.name] : starts[episode.name] + len(values)] = values
        return found

    def keep(self, lengths: Mapping[str, int], called: Callable[[str], str] = str) -> None:
        """Set `names` and `lengths` to the episodes with time steps; raise for others unless the spec skips them."""
        empty = [name for name, length in lengths.items() if not length]
        if empty and "skip" not in (self.spec.options.get("short"), self.spec.options.get("bad")):
            raise no_steps(f"{self.source}: {called(empty[0])}", f" ({len(empty)} of {len(lengths)} episodes)")
        if len(empty) == len(lengths):
            raise BadData(f"{self.source}: none of its {len(lengths)} episodes has a time step. Record it again.")
        self.names = tuple(name for name, length in lengths.items() if length)
        self.lengths = np.array([lengths[name] for name in self.names])

    def leave_out(self, bad: Mapping[str, str]) -> np.ndarray:
        """Leave out bad episodes, given by name with the problem of each, and return which rows (N,) are kept.

        Raises:
            BadEpisode: the spec has no ?bad=skip.
            BadData: more than half of the episodes would be left out.
        """
        total = len(self.names) + len(self.skipped)
        if bad and self.spec.options.get("bad") != "skip":
            raise BadEpisode(f"{next(iter(bad.values()))} {len(bad)} of {total} episodes are bad.")
        kept = np.array([name not in bad for name in self.names])
        rows = np.repeat(kept, self.lengths)
        if bad:
            self.skipped = {**self.skipped, **bad}
            warnings.warn(left_out(self.source, [*self.skipped.values()], total), stacklevel=2)
            self.names = tuple(name for name in self.names if name not in bad)
            self.lengths, self.task_of = self.lengths[kept], self.task_of[rows]
        return rows

    def leave_out_rows(self, bad: np.ndarray, problem: str) -> np.ndarray:
        """Leave out the episodes of bad rows (N,), which all have one problem, and return which rows (N,) are kept."""
        found = np.flatnonzero(bad)
        episodes, first = np.unique(np.repeat(np.arange(len(self.lengths)), self.lengths)[found], return_index=True)
        places = zip(episodes.tolist(), found[first].tolist(), strict=True)
        return self.leave_out({self.names[i]: f"{self.source}: {self.place(row)} {problem}" for i, row in places})

    def place(self, row: int) -> str:
        """Return the episode and time step of a row, for messages."""
        ends = np.cumsum(self.lengths)
        episode = int(np.searchsorted(ends, row, side="right"))
        return f"{self.names[episode]}, time step {row - int(ends[episode] - self.lengths[episode])}"

    def labels(self, texts: Sequence[str]) -> list[str]:
        """Return the name of each value of `numbers(texts)`."""
        found = []
        for column in map(Column.parse, texts):
            names = self.column_names(column.name)
            called = [
                f"{column.name}[{i}]" + (f" ({names[i]})" if names else "") for i in range(self.widths[column.name])
            ]
            found += called[column.part]
        return found

    def check_columns(self, texts: Sequence[str]) -> None:
        """Raise a ValueError unless all of these columns or parts of columns exist."""
        for text in texts:
            column = Column.parse(text)
            if column.name not in self.widths:
                raise ValueError(f"{self.source} has no column {column.name!r}; it has {listed(self.widths)}.")
            if not column.width(self.widths[column.name]):
                raise ValueError(
                    f"{text!r} is out of range: its column has {self.widths[column.name]} values. The columns are "
                    f"{listed(self.widths)}."
                )

    def check_cameras(self, names: Sequence[str]) -> None:
        """Raise a ValueError unless the recording has images, and all of these cameras."""
        if not self.cameras:
            raise ValueError(
                f"{self.source} has no images. Record it with cameras (`action-heads record ... --cameras agentview`), "
                "or use states only with --encoder none."
            )
        if absent := [name for name in names if name not in self.cameras]:
            raise ValueError(f"{self.source} has no camera {', '.join(absent)}; it has {', '.join(self.cameras)}.")


def cameras_by_name(columns: Iterable[str], short: Callable[[str], str]) -> dict[str, str]:
    """Return the column of each camera, by its short name, or by its full name if two short names are equal."""
    columns = list(columns)
    names = [short(column) for column in columns]
    return {name if names.count(name) == 1 else key: key for name, key in zip(names, columns, strict=True)}
