"""Checked reads of a LeRobotDataset's meta folder (v3): info.json, episodes and tasks.parquet."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from action_heads._util.extras import require
from action_heads.data.bounded_reads import BadData, positive, read_object, reading, short, whole
from action_heads.data.spec import MOST_HZ

NUMBERS = re.compile(r"(float|u?int)(8|16|32|64)|bool")
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # LeRobot's own columns
EPISODES = "meta/episodes/*/*.parquet"
RANGE = ("dataset_from_index", "dataset_to_index")  # rows of an episode in the dataset
MOST_VALUES = 2**20  # values of one column in one row
_PATTERN = re.compile(r"(?:[^{}]|\{video_key\}|\{(?:chunk_index|file_index)(?::0?\d?d?)?\})+")
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=OWNER/NAME"


@dataclass(frozen=True)
class Feature:
    """A column as info.json describes it."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None  # of its values

    @property
    def width(self) -> int:
        """Number of values in a row."""
        return math.prod(self.shape)

    @property
    def numeric(self) -> bool:
        return NUMBERS.fullmatch(self.dtype) is not None


@dataclass(frozen=True)
class Info:
    """The contents of meta/info.json."""

    features: Mapping[str, Feature]
    fps: float
    data_path: str
    video_path: str | None
    counts: Mapping[str, int]  # total_episodes and total_frames, if present
    robot: str  # "" if missing

    def widths(self) -> dict[str, int]:
        """Return the numeric columns and the number of values in each."""
        return {name: feature.width for name, feature in self.features.items() if feature.numeric}


@dataclass(frozen=True)
class Episode:
    """One row of meta/episodes."""

    index: int
    length: int
    file: Path
    row: Mapping[str, Any]  # the places of its videos

    @property
    def name(self) -> str:
        return f"episode_{self.index:06d}"


def read_info(root: Path, source: str) -> Info:
    """Read meta/info.json of a folder. For another version than 3 the error names the command that converts it."""
    path = root / "meta/info.json"
    if not path.exists():
        raise BadData(f"{source}: {root} has no meta/info.json, so it is not a LeRobotDataset.")
    info, where = read_object(path, source), f"{source}: meta/info.json"
    check_version(info.get("codebase_version"), root, source)
    features = info.get("features")
    if not isinstance(features, dict):
        raise BadData(f"{where}: features must be an object, but is {short(features)}. Download it again.")
    counts = {key: whole(info[key], f"{where}: {key}") for key in ("total_episodes", "total_frames") if key in info}
    video = None if info.get("video_path") is None else _pattern(info["video_path"], f"{where}: video_path")
    return Info(
        {name: _feature(feature, f"{where}: the column {name}") for name, feature in features.items()},
        positive(info.get("fps"), MOST_HZ, f"{where}: fps"),
        _pattern(info.get("data_path"), f"{where}: data_path"),
        video,
        counts,
        robot if isinstance(robot := info.get("robot_type"), str) else "",
    )


def check_version(version: object, root: Path, source: str) -> None:
    """Raise a `BadData` with a remedy for every version other than 3."""
    match = re.fullmatch(r"v?(\d{1,3})(\.\d{1,3}){0,2}", version) if isinstance(version, str) else None
    if match and match[1] == "3":
        return
    said = version if match else f"unknown ({short(version)})"
    here = f" --root={shlex.quote(str(root))} --push-to-hub=false" if root.exists() else ""
    remedy = f"convert it with `{CONVERTER}{here}` (lerobot 0.6.1)"
    if match and int(match[1]) > 3:
        remedy = "install a newer action-heads, or use a dataset in v3"
    elif match and version not in ("v2.1", "2.1"):
        remedy = f"convert it to v2.1 with an older lerobot, then {remedy}"
    raise BadData(f"{source} is a LeRobotDataset of version {said}, but only v3 can be read: {remedy}.")


def _feature(feature: object, where: str) -> Feature:
    if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
        raise BadData(f"{where} must be an object with dtype and shape, but is {short(feature)}.")
    shape = feature.get("shape")
    if not NUMBERS.fullmatch(feature["dtype"]) and feature["dtype"] not in ("image", "video"):
        return Feature(feature["dtype"], (), None)  # Text and other types are never read.
    if not isinstance(shape, list) or len(shape) > 8:
        raise BadData(f"{where}: shape must be a list of at most 8 integers, but is {short(shape)}.")
    if NUMBERS.fullmatch(feature["dtype"]):
        sizes = tuple(whole(size, f"{where}: shape {short(shape)}", 1, MOST_VALUES) for size in shape)
        if math.prod(sizes) > MOST_VALUES:
            raise BadData(f"{where}: shape {short(shape)} has more than {MOST_VALUES} values in a row.")
    else:
        sizes = tuple(whole(size, f"{where}: shape {short(shape)}", 1, 2**14) for size in shape)
    return Feature(feature["dtype"], sizes, names_of(feature.get("names"), math.prod(sizes)))


def names_of(names: object, width: int) -> tuple[str, ...] | None:
    """Return the names of a feature's values, or None unless each has one.

    LeRobot writes a list, an object with one list, or an object from names to indices. An object may also have a list
    for each part of the robot, such as its arms, in their order.
    """
    if isinstance(names, dict) and names:
        if all(isinstance(place, int) for place in names.values()):
            names = sorted(names, key=names.__getitem__)
        elif len(names) == 1:
            names = next(iter(names.values()))
        elif all(isinstance(part, list) for part in names.values()):
            names = [f"{part}.{name}" for part, its in names.items() for name in its]
    if isinstance(names, list) and len(names) == width and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _pattern(text: object, where: str) -> str:
    """Return a path template; raise a `BadData` if its paths could leave the dataset's folder."""
    fine = isinstance(text, str) and len(text) < 1000 and "\0" not in text and _PATTERN.fullmatch(text)
    if not fine or PurePosixPath(str(text)).is_absolute() or ".." in PurePosixPath(str(text)).parts:
        raise BadData(
            f"{where} must be a path within the dataset such as data/chunk-{{chunk_index:03d}}/file-"
            f"{{file_index:03d}}.parquet, but is {short(text)}."
        )
    return str(text)


def read_episodes(root: Path, info: Info, source: str, videos: bool) -> list[Episode]:
    """Read all episodes, sorted by their index; with the places of their videos only if asked for."""
    parquet = require("pyarrow.parquet", "data")
    needed = ("episode_index", "length", "data/chunk_index", "data/file_index")
    rows: list[dict[str, Any]] = []
    for part in sorted(root.glob(EPISODES)):
        where = f"{source}, {part.relative_to(root).as_posix()}"
        with reading(where):
            file = parquet.ParquetFile(part, page_checksum_verification=True)
            names = file.schema_arrow.names
            if absent := [name for name in needed if name not in names]:
                raise BadData(f"{where} lacks {', '.join(absent)}. Download it again.")
            kept = [n for n in names if n in (*needed, *RANGE) or (videos and n.startswith("videos/"))]
            rows += file.read(columns=kept).to_pylist()
    if not rows:
        raise BadData(f"{source} has no episodes. Recording or download did not finish: record or download it again.")
    for at, row in enumerate(rows):
        for key in needed:
            whole(row[key], f"{source}, meta/episodes, row {at}: {key}")
    rows.sort(key=lambda row: row["episode_index"])
    for at, row in enumerate(rows):
        if row["episode_index"] != at:
            raise BadData(
                f"{source}: episode indices are not contiguous in meta/episodes: found {row['episode_index']} instead "
                f"of {at}. Write the dataset again, for example with lerobot's dataset tools."
            )
    _check_counts(rows, info, source)

    @cache  # A file has hundreds of episodes, which share one path.
    def file_of(chunk: int, file: int) -> Path:
        return root / info.data_path.format(chunk_index=chunk, file_index=file)

    places = (file_of(row["data/chunk_index"], row["data/file_index"]) for row in rows)
    return [Episode(row["episode_index"], row["length"], file, row) for row, file in zip(rows, places, strict=True)]


def _check_counts(rows: list[dict[str, Any]], info: Info, source: str) -> None:
    """Check that the lengths and counts in meta/episodes and meta/info.json agree."""
    for row in rows:
        begin, end = map(row.get, RANGE)
        if isinstance(begin, int) and isinstance(end, int) and end - begin != row["length"]:
            raise BadData(
                f"{source}: meta/episodes gives episode {row['episode_index']} a length of {row['length']}, but rows "
                f"{begin} to {end} of the dataset. Download it again."
            )
    found = {"total_episodes": len(rows), "total_frames": sum(row["length"] for row in rows)}
    for key, count in info.counts.items():
        if count != found[key]:
            raise BadData(
                f"{source}: meta/info.json counts {count} {key.removeprefix('total_')}, but meta/episodes has "
                f"{found[key]}. Recording or download did not finish: record or download it again."
            )


def read_tasks(root: Path, source: str) -> dict[int, str]:
    """Read the task texts by task_index; an empty dict if meta/tasks.parquet is missing."""
    path = root / "meta/tasks.parquet"
    if not path.exists():
        return {}
    parquet, where = require("pyarrow.parquet", "data"), f"{source}, meta/tasks.parquet"
    with reading(where):
        table = parquet.ParquetFile(path, page_checksum_verification=True).read()
        columns = table.to_pydict()
    indices = columns.pop("task_index", None)
    # pandas stores the task texts as its index, under the index's name.
    texts = next((columns[name] for name in ("task", "__index_level_0__", *columns) if name in columns), None)
    if indices is None or texts is None:
        raise BadData(f"{where} must have the columns task_index and task, but has {', '.join(table.column_names)}.")
    found: dict[int, str] = {}
    for at, (index, text) in enumerate(zip(indices, texts, strict=True)):
        if not isinstance(text, str):
            raise BadData(f"{where}, row {at}: the task must be text, but is {short(text)}.")
        if whole(index, f"{where}, row {at}: task_index") in found:
            raise BadData(f"{where}: task_index {index} occurs twice. Give each task an index of its own.")
        found[index] = text
    return found
