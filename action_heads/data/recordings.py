"""A recording as Stage 2 reads it: columns of numbers in memory, pictures one by one from the disk.

N  rows of all episodes, end to end     E  episodes     s  steps     H, W  pixels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from action_heads.data import Spec
from action_heads.data.schema import Column


class Recording(ABC):
    """One format of files. What every one has:

    Attributes:
        source: for messages.
        widths: columns of numbers and how many each has.
        cameras: name -> (height, width).
        lengths, names: (E,) of the episodes.
        tasks: descriptions of what is done, "" where the files have none; `task_of` (N,) says which each row has.
        column_names: what each number of a column is called, where the files say it.
    """

    source: str
    widths: dict[str, int]
    cameras: dict[str, tuple[int, int]]
    lengths: np.ndarray
    names: tuple[str, ...]
    tasks: tuple[str, ...]
    task_of: np.ndarray
    rate_hz: float
    default_action: str

    @abstractmethod
    def column(self, name: str) -> np.ndarray:
        """A whole column (N, width), float32."""

    @abstractmethod
    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Of some steps, none before the other, of an episode -> (s, H, W, 3) uint8."""

    @abstractmethod
    def own_state(self, seen: bool) -> tuple[str, ...]:
        """The columns that a policy sees by default; if it has cameras, those of the robot alone."""

    def column_names(self, name: str) -> Sequence[str] | None:
        """What the numbers of a column are called."""
        return None

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """Columns and parts of columns, such as `observation.state[0:7]`, side by side (N, d)."""
        return np.concatenate([self.column(c.name)[:, c.part] for c in map(Column.parse, texts)], axis=1)

    def place(self, row: int) -> str:
        """Where a row is, for messages."""
        ends = np.cumsum(self.lengths)
        episode = int(np.searchsorted(ends, row, side="right"))
        return f"{self.names[episode]}, step {row - int(ends[episode] - self.lengths[episode])}"

    def labels(self, texts: Sequence[str]) -> list[str]:
        """What each number of `numbers(texts)` is called."""
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
            there = ", ".join(f"{name} ({width})" for name, width in self.widths.items())
            if column.name not in self.widths:
                raise ValueError(f"{self.source} has no column {column.name!r}; it has {there}")
            if not column.width(self.widths[column.name]):
                raise ValueError(
                    f"{text!r} reaches beyond the {self.widths[column.name]} numbers of its column; there are {there}"
                )

    def check_cameras(self, names: Sequence[str]) -> None:
        """Raise a ValueError unless there are pictures, and of all of these cameras."""
        if not self.cameras:
            raise ValueError(
                f"{self.source} has no pictures: record it with cameras (`action-heads record ... --cameras "
                "agentview`), or learn from states alone with --encoder none"
            )
        if absent := [name for name in names if name not in self.cameras]:
            raise ValueError(f"{self.source} has no camera {', '.join(absent)}; it has {', '.join(self.cameras)}")


def open_recording(spec: Spec) -> Recording:
    """By the kind of its spec."""
    if spec.kind == "lerobot":
        from action_heads.data.lerobot_recording import LeRobotRecording

        return LeRobotRecording(spec)
    from action_heads.data.hdf5_recording import Hdf5Recording

    return Hdf5Recording(spec)
