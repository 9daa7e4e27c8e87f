"""A recording's table on disk, written once, an episode at a time, and memory-mapped ever after.

Axes: `t` steps of one episode, `N` steps of the table.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.trajectories import Trajectories
from action_heads.pretrain.sources.convert import Steps

FORMAT = 1  # of the files below: another number never meets them


def folder() -> Path:
    """Where tables are kept: `ACTION_HEADS_CACHE`, or action-heads in the user's cache folder."""
    if chosen := os.environ.get("ACTION_HEADS_CACHE"):
        return Path(chosen).expanduser() / "trajectories"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "action-heads" / "trajectories"


class Column:
    """A .npy file that grows by rows: numpy leaves room in its header for the number of them."""

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
    """The table being written: what `build` of `cached` appends to."""

    def __init__(self, path: Path):
        self.path = path
        self.columns: dict[str, Column] = {}
        self.episodes: list[tuple[str, str, int]] = []
        self.warning = ""  # told whenever the table is opened

    def append(self, corpus: str, name: str, steps: Steps) -> None:
        """One episode."""
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
    """The table of this identity (anything JSON can hold), built now if it was not before.

    It is written beside its place and renamed into it whole: a run that is cut leaves nothing that looks finished.
    """
    key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True, default=str).encode()).hexdigest()[:24]
    place = folder() / key
    if not place.exists():
        folder().mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=folder()))
        try:
            table = Table(made)
            try:
                build(table)
            finally:
                table.close()
            record = {"identity": identity, "warning": table.warning, "episodes": table.episodes}
            (made / "episodes.json").write_text(json.dumps(record, default=str), encoding="utf-8")
            try:
                made.rename(place)
            except OSError:  # another process was faster, with the same outcome
                if not place.exists():
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return _load(place, rate_hz, arm)


def _load(place: Path, rate_hz: float, arm: Arm | None) -> Trajectories:
    record = json.loads((place / "episodes.json").read_text(encoding="utf-8"))
    if record["warning"]:
        warnings.warn(record["warning"], stacklevel=4)
    corpora, names, lengths = zip(*record["episodes"], strict=True)
    ends = np.cumsum(lengths)

    def column(key: str) -> Tensor | None:
        path = place / f"{key}.npy"
        # Mode "c" reads like "r", but torch takes only arrays that could be written to.
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)) if path.exists() else None

    gripper = column("gripper")
    if gripper is None or len(gripper) != ends[-1]:
        raise ValueError(f"{place} is damaged: delete the folder, and it is made anew")
    return Trajectories(
        joints=column("joints"),
        poses=column("poses"),
        gripper=gripper,
        starts=ends - lengths,
        lengths=np.array(lengths),
        names=names,
        corpora=corpora,
        rate_hz=rate_hz,
        arm=arm,
    )
