"""The images of a LeRobotDataset v3: in its parquet files, or in videos that lerobot decodes.

s  steps     H, W  pixels
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
    """The images of all cameras, read from the disk when asked for. `sizes`: camera -> (height, width)."""

    def __init__(self, files: Place, info: Info, rows: Rows, source: str, tolerance_s: float):
        self.files, self.info, self.rows, self.source, self.tolerance_s = files, info, rows, source, tolerance_s
        self.episodes = {episode.name: episode for episode in rows.episodes if episode.length}
        features = info.features
        columns = [key for key, feature in features.items() if is_camera(feature)]
        self.keys = cameras_by_name(columns, lambda key: key.removeprefix(PREFIX))
        self.sizes = {name: size(features[key]) for name, key in self.keys.items()}
        self.decoder = decoder() if any(features[key].dtype == "video" for key in columns) else ""
        # Column -> its images, and where those of each row stand.
        self._loaded: dict[str, tuple[Any, np.ndarray]] = {}

    def check(self, cameras: Sequence[str]) -> None:
        """Raise unless the videos of these cameras are there; those on the Hub are fetched."""
        keys = [key for key in (self.keys[name] for name in cameras) if self.info.features[key].dtype == "video"]
        if self._missing(keys):
            self.files.fetch(*(f"videos/{key}/*" for key in keys))
        if missing := self._missing(keys):
            raise BadData(
                f"{self.source} lacks {missing[0].relative_to(self.files.root).as_posix()} ({len(missing)} videos): "
                "download it again, choose other cameras with --cameras, or learn from states alone with --encoder none"
            )

    def _missing(self, keys: Sequence[str]) -> list[Path]:
        """Return the videos that are not there."""
        paths = {self._video(key, episode) for key in keys for episode in self.episodes.values()}
        return sorted(path for path in paths if not path.exists())

    def read(self, camera: str, name: str, steps: np.ndarray) -> np.ndarray:
        """Read the images of some steps, each once and in order, of the episode of that name -> (s, H, W, 3) uint8."""
        key, height_width = self.keys[camera], self.sizes[camera]
        of = self._frames if self.info.features[key].dtype == "video" else self._stored
        found = of(key, self.episodes[name], steps)
        if found.shape[1:] != (*height_width, 3):
            raise BadData(
                f"{self.source}, {name}: pictures of {camera} are {found.shape[1]} x {found.shape[2]} pixels, where "
                f"meta/info.json promises {' x '.join(map(str, height_width))}"
            )
        return found

    def _stored(self, key: str, episode: Episode, steps: np.ndarray) -> np.ndarray:
        """Images in the parquet files (s, H, W, 3)."""
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
        """Return the file with the frames of an episode."""
        places = {part: episode.row.get(f"videos/{key}/{part}") for part in ("chunk_index", "file_index")}
        for part, place in places.items():
            if not isinstance(place, int) or place < 0:
                raise BadData(
                    f"{self.source}, {episode.name}: meta/episodes has no videos/{key}/{part}: download it again"
                )
        if self.info.video_path is None:
            raise BadData(f"{self.source}: meta/info.json has videos, but no video_path: download it again")
        return self.files.root / self.info.video_path.format(video_key=key, **places)

    def _frames(self, key: str, episode: Episode, steps: np.ndarray) -> np.ndarray:
        """Frames of a video (s, H, W, 3)."""
        decode = require("lerobot.datasets.video_utils", "lerobot").decode_video_frames
        where = f"{self.source}, {episode.name}, {key}"
        begin = episode.row.get(f"videos/{key}/from_timestamp")
        if not is_number(begin):
            raise BadData(f"{where}: meta/episodes has no from_timestamp: download it again")
        times = [begin + step / self.info.fps for step in steps.tolist()]
        remedy = (
            f"download the video again; or, if its frames are further than {self.tolerance_s:g} s from their rows, "
            "give the seconds that they may be off, as in ?tolerance_s=0.02"
        )
        with reading(where, remedy):
            frames = decode(self._video(key, episode), times, self.tolerance_s, backend=self.decoder, return_uint8=True)
            return frames.numpy().transpose(0, 2, 3, 1)


def decoder() -> str:
    """Return the decoder of videos. lerobot's own choice would retry torchcodec, and warn, for each image."""
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def is_camera(feature: Feature) -> bool:
    """Tell whether a column holds images in colour."""
    return feature.dtype in ("image", "video") and len(feature.shape) == 3 and 3 in feature.shape


def size(feature: Feature) -> tuple[int, int]:
    """(height, width) of a camera, whose channels stand first or last."""
    height, width = feature.shape[:2] if feature.shape[-1] == 3 else feature.shape[1:]
    return height, width
