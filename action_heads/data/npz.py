"""The package's own format: an .npz file of plain arrays, episodes end to end (see docs/guides/recordings.md)."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from action_heads._util.paths import path_of
from action_heads.data.bounded_reads import MOST_BYTES, BadData, positive, reading
from action_heads.data.recording import Numbers, Recording
from action_heads.data.schema import Schema, check
from action_heads.data.spec import MOST_HZ, RATE_HZ, Spec

NPZ = Schema(
    "npz",
    joints="joint_position",
    position="cartesian_position[0:3]",
    rotation="cartesian_position[3:6]",
    rotation_form="euler_xyz",
    gripper="gripper",
    frame="flange",
)
MOTION = ("joint_position", "cartesian_position", "gripper")


class Npz(Recording):
    """An .npz file with joints, flange poses or both, and the gripper (0 open, 1 closed). It has no observations."""

    def __init__(self, spec: Spec, observed: bool = False):
        self.spec, self.source, self.path = spec, str(spec), path_of(spec.where)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.source}: there is no file {self.path}. Check the path.")
        self.data = read_arrays(self.path, self.source)
        for key in ("episode_start", "episode_length"):
            if key not in self.data:
                raise BadData(
                    f"{self.source} lacks {key}; it has {', '.join(self.data)}. See docs/guides/recordings.md."
                )
        self.starts, self.lengths = (self._whole_numbers(key) for key in ("episode_start", "episode_length"))
        numbers = {key: array for key, array in self.data.items() if array.dtype.kind in "fiu" and array.ndim}
        self.widths = {key: math.prod(array.shape[1:]) for key, array in numbers.items()}
        for key in MOTION:
            if key in self.data and key not in numbers:
                raise self._odd(key, "expected numbers, with one row per time step")
        self.rate_hz = spec.number("recorded_hz", self._rate())
        self._check_episodes()

    def paths(self) -> dict[str, Path]:
        return {self.path.name: self.path}

    def find_schema(self) -> Schema:
        """Return the column map of the arrays that the file has."""
        schema = NPZ
        if "joint_position" not in self.widths:
            schema = replace(schema, joints=None)
        elif "cartesian_position" not in self.widths:
            schema = replace(schema, position=None, rotation=None)
        if "gripper" not in self.widths:
            schema = replace(schema, gripper=None)
        return check(schema, self.widths, self.source)

    def _odd(self, key: str, needed: str) -> BadData:
        """Return the error for an array of another shape or dtype than needed."""
        shape, kind = self.data[key].shape, self.data[key].dtype
        return BadData(f"{self.source}: {key} has shape {shape} and dtype {kind}; {needed}.")

    def _whole_numbers(self, key: str) -> np.ndarray:
        array = self.data[key]
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise self._odd(key, "expected integers of shape (E,), one per episode")
        if len(array) and (array.min() < 0 or array.max() > 2**40):
            raise BadData(f"{self.source}: {key} has values from {array.min()} to {array.max()}, expected 0 to 2**40.")
        return array.astype(np.int64)

    def _rate(self) -> float:
        if "rate_hz" not in self.data:
            return RATE_HZ
        rate = self.data["rate_hz"]
        if rate.size != 1 or rate.dtype.kind not in "fiu":
            raise self._odd("rate_hz", "expected one number")
        return positive(rate.reshape(-1)[0].item(), MOST_HZ, f"{self.source}: rate_hz")

    def _texts(self, key: str, otherwise: list[str]) -> list[str]:
        """Return one text per episode from an array, or `otherwise` if the file does not have it."""
        if key not in self.data:
            return otherwise
        array = self.data[key]
        if array.shape != self.lengths.shape or array.dtype.kind not in "Uiu":
            raise self._odd(key, f"expected a text for each of {len(self.lengths)} episodes")
        return [str(text) for text in array.tolist()]

    def _check_episodes(self) -> None:
        if not len(self.starts):
            raise BadData(f"{self.source} has no episodes: episode_start is empty.")
        expected = np.cumsum(self.lengths) - self.lengths
        if len(self.starts) != len(self.lengths) or (self.starts != expected).any():
            raise BadData(
                f"{self.source}: episodes are not contiguous. Each episode_start must be the sum of all earlier values "
                "of episode_length."
            )
        for key in MOTION:
            if key in self.widths and (rows := len(self.data[key])) != self.lengths.sum():
                total = self.lengths.sum()
                raise BadData(f"{self.source}: {key} has {rows} rows, but episode_length sums to {total}.")
        count = len(self.lengths)
        self.names = tuple(self._texts("name", [f"episode_{i:06d}" for i in range(count)]))
        self.corpora = self._texts("source", [self.path.stem] * count)

    def read(self, columns: Sequence[str]) -> Iterator[list[Numbers]]:
        """Yield all episodes at once, since the arrays are in memory."""
        rows = int(self.lengths.sum())
        whole = {key: self.data[key].reshape(rows, self.widths[key]) for key in columns}
        yield [
            Numbers(corpus, name, {key: values[a : a + n].astype(np.float64) for key, values in whole.items()})
            for corpus, name, a, n in zip(self.corpora, self.names, self.starts, self.lengths, strict=True)
        ]


def read_arrays(path: Path, source: str) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file. Nothing is unpickled, and no array is larger than its part of the file."""
    where = f"{source}: {path}"
    if path.is_dir() or not zipfile.is_zipfile(path):
        raise BadData(f"{where} is not an .npz file. Write it with numpy.savez.")
    with reading(where, "It is damaged: copy it again."), zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if (size := sum(entry.file_size for entry in entries)) > MOST_BYTES:
            raise BadData(
                f"{where} claims {size} bytes, but at most {MOST_BYTES} are read. Split it into several files."
            )
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise BadData(f"{where} contains an array twice. Write it again with numpy.savez.")
        found = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as part:
                _check_header(part, entry.file_size, f"{where}, {name}")
            with archive.open(entry) as part:
                found[name] = np.lib.format.read_array(part, allow_pickle=False)
                if part.read(1):  # zipfile compares the checksum only when the end is read.
                    raise BadData(f"{where}, {name}: there are bytes after the array. Write it again with numpy.savez.")
    return found


def _check_header(file: IO[bytes], size: int, where: str) -> None:
    """Compare the size that a .npy header claims with the size of its part of the file."""
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise BadData(
            f"{where} contains pickled objects, which could run code and are never loaded. Save plain arrays of "
            "numbers and strings."
        )
    if (promised := file.tell() + math.prod(shape) * dtype.itemsize) != size:
        raise BadData(
            f"{where}: an array of shape {shape} and dtype {dtype} needs {promised} bytes, but the file has {size}."
        )
