"""The cache of recordings. Each is written once, one episode at a time, and memory-mapped from then on.

Axes: `t` time steps of one episode, `N` time steps of the table.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads._util.machine import cache_home
from action_heads.data.bounded_reads import BadData, read_object, reading, whole
from action_heads.data.convert import Steps
from action_heads.io import drafts
from action_heads.kinematics.arm import Arm
from action_heads.kinematics.trajectories import Trajectories

FORMAT = 3  # version of the files below; it is part of their folder's name
REBUILD = "Delete this folder; the next run builds it again from the recording."


def folder() -> Path:
    """Return the folder of cached recordings."""
    return cache_home() / "trajectories"


class Column:
    """A .npy file that grows row by row. numpy's header has room for the final number of rows."""

    def __init__(self, path: Path, width: tuple[int, ...]):
        self.width, self.rows = width, 0
        self.file = path.open("wb")
        self._header()

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, *self.width)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        self.rows += len(values)

    def close(self) -> None:
        begin = self.file.tell() - 4 * self.rows * int(np.prod(self.width))
        self.file.seek(0)
        self._header()
        assert self.file.tell() == begin, "numpy left no room for the number of rows in its header"
        self.file.close()


class Table:
    """A table that is being written. The `build` function of `cached` appends episodes to it."""

    def __init__(self, path: Path):
        self.path = path
        self.columns: dict[str, Column] = {}
        self.episodes: list[tuple[str, str, int]] = []
        self.warning = ""  # issued each time the table is opened
        self.content = hashlib.sha256()  # of what the table is made of; `build` adds to it

    def append(self, corpus: str, name: str, steps: Steps) -> None:
        """Append one episode."""
        for key, values in steps._asdict().items():
            if values is not None:
                if key not in self.columns:
                    self.columns[key] = Column(self.path / f"{key}.npy", values.shape[1:])
                self.columns[key].append(values)
        self.episodes.append((corpus, name, len(steps.gripper)))

    def close(self) -> None:
        for column in self.columns.values():
            column.close()


def cached(identity: Any, rate_hz: float, arm: Arm | None, build: Callable[[Table], None]) -> Trajectories:
    """Return the table of an identity (any JSON value). Build it first if the cache does not have it.

    The table is written to a temporary folder, which is renamed at the end. An interrupted run leaves no partial table.
    """
    key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True, default=str).encode()).hexdigest()[:24]
    place = folder() / key
    if not drafts.exists(place):
        drafts.sweep(folder(), ["[0-9a-f]" * 24])
        try:
            with drafts.drafted(place) as made:
                made.mkdir()
                table = Table(made)
                try:
                    build(table)
                finally:
                    table.close()
                shapes = {key: (column.rows, *column.width) for key, column in table.columns.items()}
                record = {"identity": identity, "warning": table.warning, "columns": shapes, "episodes": table.episodes}
                record["content"] = table.content.hexdigest()[:32]
                (made / "episodes.json").write_text(json.dumps(record, default=str), encoding="utf-8")
        except OSError:  # Another process finished the same table first.
            if not place.exists():
                raise
    return _load(place, rate_hz, arm)


def _load(place: Path, rate_hz: float, arm: Arm | None) -> Trajectories:
    damaged = BadData(f"The cached recording {place} is damaged. {REBUILD}")
    try:
        record = read_object(place / "episodes.json", "cached recording")
    except BadData as error:
        raise damaged from error
    with reading(f"The cached recording {place}", REBUILD):
        warning, shapes = record["warning"], {key: tuple(shape) for key, shape in record["columns"].items()}
        content = record["content"]
        corpora, names, lengths = zip(*record["episodes"], strict=True)
        counts = [whole(length, f"{place}, episodes.json: a length") for length in lengths]
        ends = np.cumsum(counts)
        # Mode "c" reads the file like "r", but gives writable arrays, which torch requires.
        mapped = {key: np.load(place / f"{key}.npy", mmap_mode="c", allow_pickle=False) for key in shapes}
        wrong = [key for key in shapes if mapped[key].shape != shapes[key] or mapped[key].dtype != np.dtype("<f4")]
        known = {"gripper"} < set(shapes) <= {"joints", "poses", "gripper"} and all(
            isinstance(n, str) for n in (*corpora, *names, content)
        )
        if wrong or not known or not isinstance(warning, str) or any(len(a) != ends[-1] for a in mapped.values()):
            raise damaged
    if warning:
        warnings.warn(warning, stacklevel=4)
    columns: dict[str, Tensor] = {key: torch.from_numpy(array) for key, array in mapped.items()}
    return Trajectories(
        joints=columns.get("joints"),
        poses=columns.get("poses"),
        gripper=columns["gripper"],
        starts=ends - counts,
        lengths=np.array(counts),
        names=names,
        corpora=corpora,
        rate_hz=rate_hz,
        arm=arm,
        content=content,
    )
