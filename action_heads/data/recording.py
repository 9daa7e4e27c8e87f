"""A recording on disk: columns of numbers and, for Stage 2, images. One class a format reads it for both stages.

N  rows of all episodes, end to end     E  episodes     t  steps of one episode     s  steps     H, W  pixels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from action_heads.data.bounded_reads import BadData, no_steps
from action_heads.data.motion import Raw
from action_heads.data.schema import Column, Schema, listed
from action_heads.data.spec import Spec


class Numbers(NamedTuple):
    """Columns of one episode."""

    corpus: str  # of which a share is held out
    name: str
    columns: Mapping[str, np.ndarray]  # (t, width) float64


class Recording(ABC):
    """One format of files. Every one has:

    Attributes:
        source: for messages.
        widths: columns of numbers and how many each has.
        normalises: whether robots of its kind are recorded with joints from -100 to 100.

    One that was opened for its observations also has:

    Attributes:
        cameras: name -> (height, width).
        lengths, names: (E,) of the episodes that have steps.
        tasks: descriptions of what is done, "" where the files have none; `task_of` (N,) says which each row has.
    """

    spec: Spec
    source: str
    widths: dict[str, int]
    rate_hz: float
    normalises: bool = False
    cameras: dict[str, tuple[int, int]]
    lengths: np.ndarray
    names: tuple[str, ...]
    tasks: tuple[str, ...]
    task_of: np.ndarray
    default_action: str

    @abstractmethod
    def __init__(self, spec: Spec, observed: bool = False):
        """Open a recording for its motion, or for its observations too."""

    @property
    @abstractmethod
    def identity(self) -> object:
        """Say of which file this is, in JSON: another one, or a changed one, has another."""

    @abstractmethod
    def find_schema(self) -> Schema:
        """Return the map of the columns that are motion."""

    @abstractmethod
    def read(self, columns: Sequence[str]) -> Iterator[list[Numbers]]:
        """Read columns of the episodes of one file after another, so that one file is in memory."""

    # ── motion, which Stage 1 reads ──────────────────────────────────────────────────────────────────────────────

    @cached_property
    def schema(self) -> Schema:
        """The map of the columns that are motion, of the arm that the spec names."""
        schema, arm = self.find_schema(), self.spec.options.get("arm")
        return schema if arm is None else replace(schema, arm=arm)

    def shards(self) -> Iterator[list[Raw]]:
        """Read the motion of the episodes of one file after another."""
        names = list(dict.fromkeys(column.name for column in self.schema.columns().values()))
        for shard in self.read(names):
            yield [Raw.of(episode.corpus, episode.name, episode.columns, self.schema) for episode in shard]

    # ── observations, which Stage 2 reads ────────────────────────────────────────────────────────────────────────

    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Read the images of some steps, in order, of an episode -> (s, H, W, 3) uint8."""
        raise NotImplementedError

    def own_state(self, seen: bool) -> tuple[str, ...]:
        """Return the columns that a policy sees by default; if it has cameras, those of the robot alone."""
        raise NotImplementedError

    def column_names(self, name: str) -> Sequence[str] | None:
        """Return what the numbers of a column are called, where the files say it."""
        return None

    def column(self, name: str) -> np.ndarray:
        """Read a whole column (N, width), float32."""
        return self.whole([name])[name]

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """Read columns and parts of columns, such as `observation.state[0:7]`, side by side (N, d)."""
        columns = [Column.parse(text) for text in texts]
        found = self.whole([column.name for column in columns])
        return np.concatenate([found[column.name][:, column.part] for column in columns], axis=1)

    def whole(self, names: Sequence[str], dtype: type = np.float32) -> dict[str, np.ndarray]:
        """Read whole columns (N, width), by name."""
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
        """Set `names` and `lengths` to the episodes that have steps; refuse others unless the spec leaves them out."""
        empty = [name for name, length in lengths.items() if not length]
        if empty and "skip" not in (self.spec.options.get("short"), self.spec.options.get("bad")):
            raise no_steps(f"{self.source}: {called(empty[0])}", f" ({len(empty)} of {len(lengths)} episodes)")
        if len(empty) == len(lengths):
            raise BadData(f"{self.source}: none of its {len(lengths)} episodes has a step")
        self.names = tuple(name for name, length in lengths.items() if length)
        self.lengths = np.array([lengths[name] for name in self.names])

    def place(self, row: int) -> str:
        """Return where a row is, for messages."""
        ends = np.cumsum(self.lengths)
        episode = int(np.searchsorted(ends, row, side="right"))
        return f"{self.names[episode]}, step {row - int(ends[episode] - self.lengths[episode])}"

    def labels(self, texts: Sequence[str]) -> list[str]:
        """Return what each number of `numbers(texts)` is called."""
        found = []
        for column in map(Column.parse, texts):
            names = self.column_names(column.name)
            called = [
                f"{column.name}[{i}]" + (f" ({names[i]})" if names else "") for i in range(self.widths[column.name])
            ]
            found += called[column.part]
        return found

    def check_columns(self, texts: Sequence[str]) -> None:
        """Raise a ValueError unless all of these are there."""
        for text in texts:
            column = Column.parse(text)
            if column.name not in self.widths:
                raise ValueError(f"{self.source} has no column {column.name!r}; it has {listed(self.widths)}")
            if not column.width(self.widths[column.name]):
                raise ValueError(
                    f"{text!r} reaches beyond the {self.widths[column.name]} numbers of its column; there are "
                    f"{listed(self.widths)}"
                )

    def check_cameras(self, names: Sequence[str]) -> None:
        """Raise a ValueError unless there are images, and of all of these cameras."""
        if not self.cameras:
            raise ValueError(
                f"{self.source} has no pictures: record it with cameras (`action-heads record ... --cameras "
                "agentview`), or learn from states alone with --encoder none"
            )
        if absent := [name for name in names if name not in self.cameras]:
            raise ValueError(f"{self.source} has no camera {', '.join(absent)}; it has {', '.join(self.cameras)}")


def cameras_by_name(columns: Iterable[str], short: Callable[[str], str]) -> dict[str, str]:
    """Return camera -> its column: under the short name, or the whole one where two would be called the same."""
    columns = list(columns)
    names = [short(column) for column in columns]
    return {name if names.count(name) == 1 else key: key for name, key in zip(names, columns, strict=True)}


def state_of(path: Path) -> list[str | int]:
    """Return name, size and time of change of a file."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
