"""The data files of a LeRobotDataset v3. Rows are matched to meta/episodes by episode_index and frame_index.

Axes: `n` rows of one file, `N` rows of all episodes, sorted by episode_index and frame_index.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.data.bounded_reads import MOST_BYTES, REPAIR, BadData, reading
from action_heads.data.lerobot_info import Episode

OFF = 0.1  # share by which the median step between timestamps may differ from the rate's
BACK, GAP = -0.5, 4.0  # steps between two timestamps, in units of the rate's, beyond which an episode is bad


class Rows:
    """The rows of a list of episodes, read one file at a time."""

    def __init__(self, root: Path, episodes: Sequence[Episode], source: str, rate_hz: float):
        self.root, self.source, self.episodes, self.rate_hz = root, source, episodes, rate_hz
        self.bad: dict[str, str] = {}  # the problem of each episode whose timestamps have a gap, by its name
        self.lengths = np.array([episode.length for episode in episodes], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.files: dict[Path, list[Episode]] = {}
        for episode in episodes:
            self.files.setdefault(episode.file, []).append(episode)
        if missing := [self.name(path) for path in self.files if not path.exists()]:
            raise BadData(f"{source} lacks {', '.join(missing[:3])} ({len(missing)} files). Download it again.")
        self._orders: dict[Path, np.ndarray | None] = {}  # None where the rows are in order, as almost always

    def name(self, path: Path) -> str:
        """Return the path of a file within the dataset, for messages."""
        return path.relative_to(self.root).as_posix()

    def read(self, path: Path, widths: dict[str, int]) -> dict[str, np.ndarray]:
        """Read columns (n, width) of a file, with its episodes end to end."""
        where = f"{self.source}, {self.name(path)}"
        table = _read(path, [*widths], where)
        order, count = self.order(path), sum(episode.length for episode in self.files[path])
        if len(table) != count:
            raise BadData(f"{where} has {len(table)} rows and had {count} before. Wait until it is written.")
        found = {name: column_values(table[name], width, f"{where}, {name}") for name, width in widths.items()}
        return found if order is None else {name: values[order] for name, values in found.items()}

    def places(self) -> np.ndarray:
        """Return the position of each row (N,) among the rows of all files, end to end."""
        for path in self.files:
            self.order(path)
        found, offset = np.empty(int(self.lengths.sum()), np.int64), 0
        for path, episodes in self.files.items():
            order, begin = self.order(path), 0
            for episode in episodes:
                start, end = self.starts[episode.index], begin + episode.length
                found[start : start + episode.length] = offset + (
                    np.arange(begin, end) if order is None else order[begin:end]
                )
                begin = end
            offset += begin
        return found

    def order(self, path: Path) -> np.ndarray | None:
        """Return the row in the file of each time step (n,) of its episodes, or None if the rows are in order.

        Raises:
            BadData: rows are missing, or their timestamps contradict the rate.
        """
        if path not in self._orders:
            where = f"{self.source}, {self.name(path)}"
            table = _read(path, ["episode_index", "frame_index"], where, optional=("timestamp",))
            order = self._order(path, table, where)
            if "timestamp" in table.column_names:
                times = column_values(table["timestamp"], 1, f"{where}, timestamp")[:, 0]
                self._check_times(path, times if order is None else times[order], where)
            self._orders[path] = order
        return self._orders[path]

    def _check_times(self, path: Path, times: np.ndarray, where: str) -> None:
        """Raise a `BadData` if the timestamps (n,) of a file contradict the rate, and note the episodes with gaps."""
        of = np.repeat(np.arange(len(self.files[path])), [episode.length for episode in self.files[path]])
        inner = np.diff(of) == 0
        with np.errstate(invalid="ignore"):
            steps = np.diff(times) * self.rate_hz  # 1 is right.
        if not np.nan_to_num(steps[inner]).any():  # They were never set, which tells nothing.
            return
        typical = float(np.nanmedian(steps[inner]))
        if not abs(typical - 1) < OFF:
            found, wanted = typical / self.rate_hz, 1 / self.rate_hz
            remedy = (
                f"Give the rate of the rows as ?recorded_hz={1 / found:.4g}, or correct" if found > 0 else "Correct"
            )
            raise BadData(
                f"{where}: rows are {found:.4g} s apart by their timestamps (median), but {wanted:.4g} s at "
                f"{self.rate_hz:g} Hz. {remedy} fps in meta/info.json or the timestamps."
            )
        wrong = np.flatnonzero(inner & ~((steps > BACK) & (steps < GAP)))
        for number, at in zip(*np.unique(of[wrong], return_index=True), strict=True):
            row, episode = wrong[at], self.files[path][number]
            self.bad[episode.name] = (
                f"{where}: episode {episode.index} has a gap: its time step {row + 1 - int((of < number).sum())} is "
                f"{steps[row] / self.rate_hz:.4g} s after the one before. {REPAIR}"
            )

    def _order(self, path: Path, table: Any, where: str) -> np.ndarray | None:
        found, frames = (
            column_values(table[key], 1, f"{where}, {key}")[:, 0] for key in ("episode_index", "frame_index")
        )
        indices, lengths = (
            np.array([getattr(episode, key) for episode in self.files[path]], dtype=np.int64)
            for key in ("index", "length")
        )
        if (count := int(lengths.sum())) != len(found):
            raise BadData(f"{where} has {len(found)} rows, but meta/episodes counts {count}. Download it again.")
        wanted = np.repeat(indices, lengths)
        steps = np.arange(count) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if (found == wanted).all() and (frames == steps).all():
            return None
        order = np.lexsort((frames, found))
        if (wrong := found[order] != wanted).any():
            at = int(wrong.argmax())
            raise BadData(
                f"{where}: row {order[at]} has episode_index {found[order][at]:g}, but by meta/episodes it belongs to "
                f"episode {wanted[at]}. Download it again."
            )
        if (gap := frames[order] != steps).any():
            of = int(wanted[gap.argmax()])
            rows = frames[found == of]  # In the order of the file, so that the message gives the place in it.
            row = int((rows != np.arange(len(rows))).argmax())
            raise BadData(
                f"{where}: episode {of} is not contiguous, its row {row} has frame_index {rows[row]:g}. "
                "Record or download it again."
            )
        return order


def _read(path: Path, columns: list[str], where: str, optional: Sequence[str] = ()) -> Any:
    """Read columns of a parquet file, and the optional ones that it has.

    Raises:
        BadData: a column is missing, is not of numbers, or has no plausible size.
    """
    parquet = require("pyarrow.parquet", "data")
    with reading(where):
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        if absent := [name for name in columns if name not in file.schema_arrow.names]:
            raise BadData(f"{where} lacks {', '.join(absent)}, which meta/info.json lists. Download it again.")
        columns = [*columns, *(name for name in optional if name in file.schema_arrow.names)]
        meta = file.metadata
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        if size > MOST_BYTES or meta.num_rows > MOST_BYTES // 8:
            raise BadData(f"{where} claims {meta.num_rows} rows in {size} bytes. It is damaged: download it again.")
        for name in columns:
            _check_type(file.schema_arrow.field(name).type, f"{where}, {name}")
        return file.read(columns=columns)


def _check_type(kind: Any, where: str) -> None:
    types, inner = require("pyarrow", "data").types, kind
    while _is_list(inner):
        inner = inner.value_type
    if not (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner)):
        raise BadData(f"{where} has type {kind}, but must hold numbers or lists of numbers.")


def _is_list(kind: Any) -> bool:
    types = require("pyarrow", "data").types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def column_values(column: Any, width: int, where: str) -> np.ndarray:
    """Return a column of numbers, or of lists of numbers, as an array (rows, width). Missing numbers become NaN."""
    rows = len(column)
    with reading(where):
        flat, each = column.combine_chunks(), 1
        while _is_list(flat.type):
            if flat.null_count:
                at = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // each
                raise BadData(f"{where}, row {at}: the list is missing. Record or download it again.")
            lengths = flat.value_lengths().to_numpy(zero_copy_only=False)
            if len(lengths) and (lengths != lengths[0]).any():
                at = int((lengths != lengths[0]).argmax())
                raise BadData(f"{where}, row {at // each} has {lengths[at]} values, but row 0 has {lengths[0]}.")
            each *= int(lengths[0]) if len(lengths) else 1
            flat = flat.flatten()
        values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
    if values.size != rows * width:
        raise BadData(f"{where} has {values.size} values in {rows} rows, but meta/info.json says {width} per row.")
    return values.reshape(rows, width)
