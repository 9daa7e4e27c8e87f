"""A LeRobotDataset v3 with pictures or videos, through lerobot's own class, which also fetches it from the Hub."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.adapt.recordings import Recording
from action_heads.extras import require
from action_heads.pretrain.sources import Spec
from action_heads.pretrain.sources.lerobot import column_values, fetching

IMAGES = "observation.images."
OWN = ("observation.eef", "observation.gripper")  # of what `action-heads record` writes, whose state tells the objects


class LeRobotRecording(Recording):
    """Episodes, frames and videos as lerobot has them."""

    def __init__(self, spec: Spec):
        self.source = str(spec)
        root = Path(spec.where).expanduser()
        if not root.exists() and (root.is_absolute() or spec.where.count("/") != 1):
            raise FileNotFoundError(f"{self.source}: there is no folder {spec.where}, and a repo_id is OWNER/NAME")
        if root.exists() and not (root / "meta/info.json").exists():
            raise ValueError(f"{self.source}: {root} has no meta/info.json, so it is no LeRobotDataset")
        cls = require("lerobot.datasets.lerobot_dataset", "lerobot").LeRobotDataset
        at = ("local/" + root.resolve().name, root) if root.exists() else (spec.where, None)
        self.decoder = decoder()
        with nullcontext() if root.exists() else fetching(spec):
            self.dataset = cls(at[0], at[1], revision=spec.options.get("revision"), video_backend=self.decoder)
        self.meta = self.dataset.meta
        features = self.meta.features
        self.widths = {
            name: int(np.prod(feature["shape"]))
            for name, feature in features.items()
            if feature["dtype"] not in ("image", "video", "string") and "index" not in name and name != "timestamp"
        }
        self.default_action = "actions" if {"actions", "action"} & self.widths.keys() == {"actions"} else "action"
        self.keys = {key.removeprefix(IMAGES): key for key in self.meta.camera_keys if 3 in features[key]["shape"]}
        self.cameras = {name: size(features[key]) for name, key in self.keys.items()}
        self.lengths = np.array(self.meta.episodes["length"])
        self.names = tuple(f"episode_{i:06d}" for i in range(len(self.lengths)))
        self.starts = np.cumsum(self.lengths) - self.lengths
        if len(self.dataset.hf_dataset) != self.lengths.sum():
            raise ValueError(
                f"{self.source}: {len(self.dataset.hf_dataset)} rows, but meta/episodes counts {self.lengths.sum()}: "
                "the download was cut, or the recording never finished"
            )
        order = self.meta.tasks.sort_values("task_index")
        self.tasks = tuple(str(task) for task in order.index)
        self.task_of = np.asarray(self._raw("task_index", 1)[:, 0], np.int64)
        self.rate_hz = float(self.meta.fps)
        self._images: dict[str, Any] = {}  # without the reader's conversion to float

    def _raw(self, name: str, width: int) -> np.ndarray:
        return column_values(self.dataset.hf_dataset.data.column(name), width, f"{self.source}, {name}")

    def column(self, name: str) -> np.ndarray:
        return self._raw(name, self.widths[name]).astype(np.float32)

    def column_names(self, name: str) -> Sequence[str] | None:
        names = self.meta.features[name].get("names")
        return next(iter(names.values())) if isinstance(names, Mapping) else names

    def own_state(self, seen: bool) -> tuple[str, ...]:
        if seen and (self.meta.root / "meta/recording.json").exists() and set(OWN) <= self.widths.keys():
            return OWN
        return tuple(name for name in ("observation.state", "observation.environment_state") if name in self.widths)

    def pictures(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        key = self.keys[camera]
        once, back = np.unique(steps, return_inverse=True)
        if key in self.meta.video_keys:
            return self._frames(key, episode, once)[back]
        if key not in self._images:
            self._images[key] = self.dataset.hf_dataset.with_format(None).select_columns([key])
        rows = self._images[key][(self.starts[episode] + once).tolist()][key]
        return np.stack([np.asarray(row.convert("RGB")) for row in rows])[back]

    def _frames(self, key: str, episode: int, steps: np.ndarray) -> np.ndarray:
        """Of a video (s, H, W, 3)."""
        decode = require("lerobot.datasets.video_utils", "lerobot").decode_video_frames
        begin = self.meta.episodes[episode][f"videos/{key}/from_timestamp"]
        path = self.meta.root / self.meta.get_video_file_path(episode, key)
        times = [begin + step / self.rate_hz for step in steps.tolist()]
        frames = decode(path, times, self.dataset.tolerance_s, backend=self.decoder, return_uint8=True)
        return frames.numpy().transpose(0, 2, 3, 1)


def decoder() -> str:
    """What decodes videos. lerobot's own choice tries anew for each picture, and complains, where torchcodec fails."""
    try:
        importlib.import_module("torchcodec")
    except (ImportError, OSError, RuntimeError):
        return "pyav"
    return "torchcodec"


def size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a camera, whose channels stand first or last."""
    shape = tuple(feature["shape"])
    return shape[:2] if shape[-1] == 3 else shape[1:]
