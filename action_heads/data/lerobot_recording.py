"""A LeRobotDataset v3 with pictures or videos: numbers from its parquet files, pictures through lerobot's decoders."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.data import Spec
from action_heads.data.lerobot import fetched, folder_of
from action_heads.data.lerobot_info import (
    BOOKKEEPING,
    Feature,
    read_episodes,
    read_info,
    read_tasks,
)
from action_heads.data.lerobot_rows import Rows
from action_heads.data.raw import BadData, BadEpisode
from action_heads.data.reading import is_number, reading
from action_heads.data.recordings import Recording

IMAGES = "observation.images."
OWN = ("observation.eef", "observation.gripper")  # of what `action-heads record` writes, whose state tells the objects
STATES = ("observation.state", "observation.environment_state")
OPENPI = ("state",)  # the name in datasets made for openpi
VERSION = "v3.0"  # the tag that lerobot looks for on the Hub


class LeRobotRecording(Recording):
    """Episodes, frames and videos. Rows, episodes and tasks are matched by their indices, never by their places."""

    def __init__(self, spec: Spec):
        self.spec, self.source = spec, str(spec)
        self._hub: dict[str, Any] | None = None  # where the rest of a dataset on the Hub is fetched from
        here = folder_of(spec)
        require("lerobot", "lerobot")
        self.root = here or self._from_hub()
        self.info = read_info(self.root, self.source)
        if self._hub is not None:
            self.root = fetched(spec, ["meta/*", "data/*"], **self._hub)
        episodes = read_episodes(self.root, self.info, self.source)
        if (empty := [e.index for e in episodes if not e.length]) and not self._skips():
            raise BadEpisode(
                f"{self.source}: episode {empty[0]} has no steps ({len(empty)} of {len(episodes)} episodes): leave "
                "such episodes out with ?short=skip or ?bad=skip"
            )
        self.rows = Rows(self.root, episodes, self.source)
        self.episodes = [episode for episode in episodes if episode.length]
        if not self.episodes:
            raise BadData(f"{self.source}: none of its {len(episodes)} episodes has a step")
        features = self.info.features
        self.widths = {name: width for name, width in self.info.widths().items() if name not in BOOKKEEPING}
        self.default_action = "actions" if {"actions", "action"} & self.widths.keys() == {"actions"} else "action"
        self.keys = camera_names([key for key, feature in features.items() if is_camera(feature)])
        self.cameras = {name: size(features[key]) for name, key in self.keys.items()}
        self.lengths = np.array([episode.length for episode in self.episodes])
        self.names = tuple(f"episode_{episode.index:06d}" for episode in self.episodes)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.rate_hz = self.info.fps
        # lerobot refuses what is a tenth of a millisecond off; within a quarter of a frame there is no doubt.
        self.tolerance_s = spec.number("tolerance_s", 0.25 / self.rate_hz)
        for path in self.rows.files:  # every row is there, before anything is trained
            self.rows.order(path)
        self.tasks, self.task_of = self._tasks()
        self.decoder = decoder() if any(features[key].dtype == "video" for key in self.keys.values()) else ""
        self._images: dict[
            str, tuple[Any, np.ndarray]
        ] = {}  # column -> its pictures, and where those of each row stand

    def _skips(self) -> bool:
        return "skip" in (self.spec.options.get("short"), self.spec.options.get("bad"))

    def _from_hub(self) -> Path:
        """The folder with the dataset's info.json: lerobot's own copy if there is one, or a snapshot from the Hub."""
        constants = require("lerobot.utils.constants", "lerobot")
        copy = Path(constants.HF_LEROBOT_HOME) / self.spec.where
        if (copy / "meta/info.json").exists() and "revision" not in self.spec.options:
            return copy
        revision = self.spec.options.get("revision", VERSION)
        self._hub = {"revision": revision, "cache_dir": constants.HF_LEROBOT_HUB_CACHE}
        try:
            return fetched(self.spec, ["meta/info.json"], **self._hub)
        except OSError as error:
            if "revision" in self.spec.options or not no_revision(error):
                raise
        self._hub["revision"] = None  # a dataset without the tag: its main branch, whose version is looked at then
        return fetched(self.spec, ["meta/info.json"], **self._hub)

    def _tasks(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Descriptions by their task_index, and which of them each row has; one empty one where the files have none."""
        texts = read_tasks(self.root, self.source)
        if not texts or "task_index" not in self.info.features:
            return ("",), np.zeros(int(self.lengths.sum()), np.int64)
        indices = self.rows.column("task_index", 1)[:, 0]
        known = np.array(sorted(texts))
        places = np.searchsorted(known, indices).clip(max=len(known) - 1)
        if (unknown := known[places] != indices).any():
            row = int(unknown.argmax())
            raise BadData(
                f"{self.source}, row {row}: task_index {indices[row]:g} is not in meta/tasks.parquet, which has "
                f"{', '.join(map(str, known[:10]))}: download it again"
            )
        return tuple(texts[index] for index in known.tolist()), places

    def column(self, name: str) -> np.ndarray:
        return self.rows.column(name, self.widths[name]).astype(np.float32)

    def column_names(self, name: str) -> Sequence[str] | None:
        names = self.info.features[name].names
        return None if names is None else list(names)

    def own_state(self, seen: bool) -> tuple[str, ...]:
        if seen and (self.root / "meta/recording.json").exists() and set(OWN) <= self.widths.keys():
            return OWN
        found = tuple(name for name in STATES if name in self.widths)
        return found or tuple(name for name in OPENPI if name in self.widths)

    def check_cameras(self, names: Sequence[str]) -> None:
        """Also raise unless the videos of these cameras, or of all, are there; those on the Hub are fetched."""
        super().check_cameras(names)
        keys = [self.keys[name] for name in names or self.keys]
        keys = [key for key in keys if self.info.features[key].dtype == "video"]
        if self._hub is not None and self._missing(keys):
            fetched(self.spec, [f"videos/{key}/*" for key in keys], **self._hub)
        if missing := self._missing(keys):
            raise BadData(
                f"{self.source} lacks {missing[0].relative_to(self.root).as_posix()} ({len(missing)} videos): download "
                "it again, choose other cameras with --cameras, or learn from states alone with --encoder none"
            )

    def _missing(self, keys: Sequence[str]) -> list[Path]:
        """The videos that are not there."""
        paths = {self._video(key, episode) for key in keys for episode in range(len(self.episodes))}
        return sorted(path for path in paths if not path.exists())

    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        key = self.keys[camera]
        once, back = np.unique(steps, return_inverse=True)
        video = self.info.features[key].dtype == "video"
        found = self._frames(key, episode, once) if video else self._stored(key, episode, once)
        if found.shape[1:] != (*self.cameras[camera], 3):
            raise BadData(
                f"{self.source}, {self.names[episode]}: pictures of {camera} are {found.shape[1]} x {found.shape[2]} "
                f"pixels, where meta/info.json promises {' x '.join(map(str, self.cameras[camera]))}"
            )
        return found[back]

    def _stored(self, key: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Pictures in the parquet files (s, H, W, 3)."""
        where = f"{self.source}, {self.names[episode]}, {key}"
        with reading(where):
            if key not in self._images:
                datasets = require("datasets", "lerobot")
                features = datasets.Features({key: datasets.Image()})
                files = [str(path) for path in self.rows.files]
                with require("lerobot.utils.utils", "lerobot").SuppressProgressBars():
                    whole = datasets.Dataset.from_parquet(files, columns=[key], features=features)
                self._images[key] = whole, self.rows.places()
            whole, places = self._images[key]
            rows = whole[places[self.starts[episode] + steps].tolist()][key]
            return np.stack([np.asarray(row.convert("RGB")) for row in rows])

    def _video(self, key: str, episode: int) -> Path:
        """The file with the frames of an episode."""
        row, places = self.episodes[episode].row, {}
        for part in ("chunk_index", "file_index"):
            places[part] = row.get(f"videos/{key}/{part}")
            if not isinstance(places[part], int) or places[part] < 0:
                raise BadData(
                    f"{self.source}, {self.names[episode]}: meta/episodes has no videos/{key}/{part}: download it again"
                )
        if self.info.video_path is None:
            raise BadData(f"{self.source}: meta/info.json has videos, but no video_path: download it again")
        return self.root / self.info.video_path.format(video_key=key, **places)

    def _frames(self, key: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Frames of a video (s, H, W, 3)."""
        decode = require("lerobot.datasets.video_utils", "lerobot").decode_video_frames
        where = f"{self.source}, {self.names[episode]}, {key}"
        begin = self.episodes[episode].row.get(f"videos/{key}/from_timestamp")
        if not is_number(begin):
            raise BadData(f"{where}: meta/episodes has no from_timestamp: download it again")
        times = [begin + step / self.rate_hz for step in steps.tolist()]
        remedy = (
            f"download the video again; or, if its frames are further than {self.tolerance_s:g} s from their rows, "
            "give the seconds that they may be off, as in ?tolerance_s=0.02"
        )
        with reading(where, remedy):
            frames = decode(self._video(key, episode), times, self.tolerance_s, backend=self.decoder, return_uint8=True)
            return frames.numpy().transpose(0, 2, 3, 1)


def no_revision(error: OSError) -> bool:
    """Tell whether the Hub has the dataset, but not the tag that was asked for."""
    from huggingface_hub import errors

    return isinstance(error.__cause__, errors.RevisionNotFoundError)


def camera_names(keys: Sequence[str]) -> dict[str, str]:
    """Camera -> its column: `top` for `observation.images.top`; the whole name where two would be called the same."""
    names = [key.removeprefix(IMAGES) for key in keys]
    return {name if names.count(name) == 1 else key: key for name, key in zip(names, keys, strict=True)}


def decoder() -> str:
    """What decodes videos. lerobot's own choice tries anew for each picture, and complains, where torchcodec fails."""
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def is_camera(feature: Feature) -> bool:
    """Tell whether a column holds pictures in colour."""
    return feature.dtype in ("image", "video") and len(feature.shape) == 3 and 3 in feature.shape


def size(feature: Feature) -> tuple[int, int]:
    """(height, width) of a camera, whose channels stand first or last."""
    height, width = feature.shape[:2] if feature.shape[-1] == 3 else feature.shape[1:]
    return height, width
