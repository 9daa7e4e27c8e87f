"""The images of a LeRobotDataset v3, from its parquet files or from videos that lerobot decodes.

Axes: s time steps, H height and W width in pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.data.bounded_reads import BadData, is_number, reading
from action_heads.data.lerobot_hub import Place
from action_heads.data.lerobot_info import Episode, Feature, Info
from action_heads.data.lerobot_rows import Rows
from action_heads.data.recording import cameras_by_name

PREFIX = "observation.images."


class Images:
    """The images of all cameras, read from disk on request. `sizes` maps a camera to its (height, width)."""

    def __init__(self, files: Place, info: Info, rows: Rows, source: str, tolerance_s: float):
        self.files, self.info, self.rows, self.source, self.tolerance_s = files, info, rows, source, tolerance_s
        self.episodes = {episode.name: episode for episode in rows.episodes if episode.length}
        features = info.features
        columns = [key for key, feature in features.items() if is_camera(feature)]
        self.keys = cameras_by_name(columns, lambda key: key.removeprefix(PREFIX))
        self.sizes = {name: size(features[key]) for name, key in self.keys.items()}
        self.decoder = decoder() if any(features[key].dtype == "video" for key in columns) else ""
        # For each column: its images, and the position of each row's image among them.
        self._loaded: dict[str, tuple[Any, np.ndarray]] = {}

    def check(self, cameras: Sequence[str]) -> None:
        """Download the videos of these cameras if they are on the Hub; raise a `BadData` if any is missing."""
        keys = self._videos_of(cameras)
        if self._missing(keys):
            self.files.fetch(*(f"videos/{key}/*" for key in keys))
        if missing := self._missing(keys):
            raise BadData(
                f"{self.source} lacks {missing[0].relative_to(self.files.root).as_posix()} ({len(missing)} videos). "
                "Download it again, choose other cameras with --cameras, or use states only with --encoder none."
            )

    def paths(self, cameras: Sequence[str]) -> set[Path]:
        """Return the files that hold the images of these cameras."""
        videos = self._videos_of(cameras)
        return self._paths(videos) | (set(self.rows.files) if len(videos) < len(cameras) else set())

    def _videos_of(self, cameras: Sequence[str]) -> list[str]:
        """Return the columns of those of the cameras whose images are videos."""
        return [key for key in (self.keys[name] for name in cameras) if self.info.features[key].dtype == "video"]

    def _paths(self, keys: Sequence[str]) -> set[Path]:
        """Return the paths of the videos of these columns."""
        return {self._video(key, episode) for key in keys for episode in self.episodes.values()}

    def _missing(self, keys: Sequence[str]) -> list[Path]:
        """Return the paths of missing videos."""
        return sorted(path for path in self._paths(keys) if not path.exists())

    def read(self, camera: str, name: str, steps: np.ndarray) -> np.ndarray:
        """Read the images (s, H, W, 3) uint8 of time steps (s,), which are unique and sorted, of a named episode."""
        key, height_width = self.keys[camera], self.sizes[camera]
        of = self._frames if self.info.features[key].dtype == "video" else self._stored
        found = of(key, self.episodes[name], steps)
        if found.shape[1:] != (*height_width, 3):
            raise BadData(
                f"{self.source}, {name}: images of {camera} have {found.shape[1]} x {found.shape[2]} pixels, but "
                f"meta/info.json says {' x '.join(map(str, height_width))}. Correct the file or record again."
            )
        return found

    def _stored(self, key: str, episode: Episode, steps: np.ndarray) -> np.ndarray:
        """Read images (s, H, W, 3) from the parquet files."""
        with reading(f"{self.source}, {episode.name}, {key}"):
            if key not in self._loaded:
                datasets = require("datasets", "lerobot")
                features = datasets.Features({key: datasets.Image()})
                files = [str(path) for path in self.rows.files]
                with require("lerobot.utils.utils", "lerobot").SuppressProgressBars():
                    whole = datasets.Dataset.from_parquet(files, columns=[key], features=features)
                self._loaded[key] = whole, self.rows.places()
            whole, places = self._loaded[key]
            rows = whole[places[self.rows.starts[episode.index] + steps].tolist()][key]
            return np.stack([np.asarray(row.convert("RGB")) for row in rows])

    def _video(self, key: str, episode: Episode) -> Path:
        """Return the video file that holds the frames of an episode."""
        places = {part: episode.row.get(f"videos/{key}/{part}") for part in ("chunk_index", "file_index")}
        for part, place in places.items():
            if not isinstance(place, int) or place < 0:
                raise BadData(
                    f"{self.source}, {episode.name}: meta/episodes has no videos/{key}/{part}. Download it again."
                )
        if self.info.video_path is None:
            raise BadData(f"{self.source}: meta/info.json lists videos, but has no video_path. Download it again.")
        return self.files.root / self.info.video_path.format(video_key=key, **places)

    def _frames(self, key: str, episode: Episode, steps: np.ndarray) -> np.ndarray:
        """Decode frames (s, H, W, 3) of a video."""
        decode = require("lerobot.datasets.video_utils", "lerobot").decode_video_frames
        where = f"{self.source}, {episode.name}, {key}"
        begin = episode.row.get(f"videos/{key}/from_timestamp")
        if not is_number(begin):
            raise BadData(f"{where}: meta/episodes has no from_timestamp. Download it again.")
        times = [begin + step / self.info.fps for step in steps.tolist()]
        remedy = (
            f"Download the video again. If its frames are more than {self.tolerance_s:g} s away from their rows, "
            "allow a larger difference in seconds, as in ?tolerance_s=0.02."
        )
        with reading(where, remedy):
            frames = decode(self._video(key, episode), times, self.tolerance_s, backend=self.decoder, return_uint8=True)
            return frames.numpy().transpose(0, 2, 3, 1)


def decoder() -> str:
    """Return the video decoder. lerobot's own choice would try torchcodec again, and warn, for each image."""
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def is_camera(feature: Feature) -> bool:
    """Return whether a column holds colour images."""
    return feature.dtype in ("image", "video") and len(feature.shape) == 3 and 3 in feature.shape


def size(feature: Feature) -> tuple[int, int]:
    """Return the (height, width) of a camera, whose channels may be the first or the last axis."""
    height, width = feature.shape[:2] if feature.shape[-1] == 3 else feature.shape[1:]
    return height, width
