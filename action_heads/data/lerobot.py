"""A reader of LeRobotDataset v3. It reads numbers from the parquet files itself, and images with lerobot's decoders.

The files are meta/info.json, meta/episodes/chunk-*/file-*.parquet, data/chunk-*/file-*.parquet and videos. Rows,
episodes and tasks are matched by their indices, never by their positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.data.bounded_reads import BadData
from action_heads.data.known_schemas import choose
from action_heads.data.lerobot_hub import Place
from action_heads.data.lerobot_images import Images
from action_heads.data.lerobot_info import BOOKKEEPING, EPISODES, Episode, read_episodes, read_info, read_tasks
from action_heads.data.lerobot_rows import Rows
from action_heads.data.recording import OWN, STATES, Numbers, Recording
from action_heads.data.schema import Schema, check
from action_heads.data.spec import Spec

# Robots whose joints LeRobot writes as -100 to 100, unless it is configured to write degrees.
NORMALISING = re.compile(r"(bi_)?(so_?10[01]|so_|koch|lekiwi|omx)")
OPENPI = ("state",)  # the name in datasets for openpi


class LeRobot(Recording):
    """A dataset in a folder, or on the Hub by its repo_id. Files from the Hub are downloaded when they are needed."""

    def __init__(self, spec: Spec, observed: bool = False):
        self.spec, self.source, self.observed = spec, str(spec), observed
        self.files = Place(spec, observed)
        self.info = read_info(self.files.root, self.source)
        self.widths = {name: width for name, width in self.info.widths().items() if name not in BOOKKEEPING}
        self.rate_hz = spec.number("recorded_hz", self.info.fps)
        self.normalises = NORMALISING.match(self.info.robot) is not None
        self.corpus = spec.where.rstrip("/").rsplit("/", 1)[-1]
        if observed:
            self._observe()

    @cached_property
    def root(self) -> Path:
        """The folder with the metadata and the data files, which are downloaded at the first access."""
        self.files.fetch("meta/*", "data/*")
        return self.files.root

    @cached_property
    def rows(self) -> Rows:
        """The rows of the data files, by episode."""
        episodes = read_episodes(self.root, self.info, self.source, self.observed)
        return Rows(self.root, episodes, self.source, self.rate_hz)

    @property
    def bad(self) -> Mapping[str, str]:
        return self.rows.bad

    def read(self, columns: Sequence[str]) -> Iterator[list[Numbers]]:
        for path, episodes in self.rows.files.items():
            yield self._read(path, episodes, columns)

    def _read(self, path: Path, episodes: Sequence[Episode], columns: Sequence[str]) -> list[Numbers]:
        values = self.rows.read(path, {name: self.widths.get(name, 1) for name in columns})
        found, begin = [], 0
        for episode in episodes:
            now = slice(begin, begin + episode.length)
            found.append(Numbers(self.corpus, episode.name, {name: column[now] for name, column in values.items()}))
            begin += episode.length
        return found

    # ── motion ───────────────────────────────────────────────────────────────────────────────────────────────────

    def find_schema(self) -> Schema:
        if path := self.spec.options.get("columns"):
            return check(Schema.from_json(path), self.widths, self.source)
        return choose(self.widths, self.spec.options.get("schema"), self.source)

    def paths(self) -> dict[str, Path]:
        # The files are found by their names, since meta/episodes of a large corpus takes seconds to read.
        patterns = ("meta/info.json", EPISODES, re.sub(r"\{[^}]*\}", "*", self.info.data_path))
        files = [path for pattern in patterns for path in sorted(self.root.glob(pattern))]
        return {path.relative_to(self.root).as_posix(): path for path in files}

    @property
    def identity(self) -> list[Any]:
        return [self.corpus, *super().identity]

    def image_paths(self, cameras: Sequence[str]) -> dict[str, Path]:
        return {path.relative_to(self.files.root).as_posix(): path for path in self.images.paths(cameras)}

    # ── observations ─────────────────────────────────────────────────────────────────────────────────────────────

    def _observe(self) -> None:
        """Check all rows and tasks before training, and prepare the reading of images."""
        numbers = {episode.name: str(episode.index) for episode in self.rows.episodes}
        self.keep(
            {episode.name: episode.length for episode in self.rows.episodes}, lambda name: f"episode {numbers[name]}"
        )
        self.default_action = "actions" if {"actions", "action"} & self.widths.keys() == {"actions"} else "action"
        # lerobot's own tolerance is 0.1 ms. Within a quarter of a frame the match is unambiguous.
        tolerance = self.spec.number("tolerance_s", 0.25 / self.info.fps)
        for path in self.rows.files:
            self.rows.order(path)
        self.tasks, self.task_of = self._tasks()
        self.images = Images(self.files, self.info, self.rows, self.source, tolerance)
        self.cameras = self.images.sizes
        self.leave_out(self.bad)

    def _tasks(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the task texts, ordered by task_index, and the index into them of each row (N,).

        Without task texts in the files there is a single, empty one.
        """
        texts = read_tasks(self.files.root, self.source)
        if not texts or "task_index" not in self.info.features:
            return ("",), np.zeros(int(self.lengths.sum()), np.int64)
        indices = self.whole(["task_index"], np.float64)["task_index"][:, 0]
        known = np.array(sorted(texts))
        places = np.searchsorted(known, indices).clip(max=len(known) - 1)
        if (unknown := known[places] != indices).any():
            row = int(unknown.argmax())
            raise BadData(
                f"{self.source}, row {row}: task_index {indices[row]:g} is not in meta/tasks.parquet, which has "
                f"{', '.join(map(str, known[:10]))}. Download the dataset again."
            )
        return tuple(texts[index] for index in known.tolist()), places

    def column_names(self, name: str) -> Sequence[str] | None:
        names = self.info.features[name].names
        return None if names is None else list(names)

    def default_state(self, with_images: bool) -> tuple[str, ...]:
        if with_images and (self.files.root / "meta/recording.json").exists() and set(OWN) <= self.widths.keys():
            return OWN
        found = tuple(name for name in STATES if name in self.widths)
        return found or tuple(name for name in OPENPI if name in self.widths)

    def check_cameras(self, names: Sequence[str]) -> None:
        """Check these cameras and their videos, or all if `names` is empty. Download missing videos from the Hub."""
        super().check_cameras(names)
        self.images.check(names or list(self.cameras))

    def images_of(self, camera: str, episode: int, steps: np.ndarray) -> np.ndarray:
        once, back = np.unique(steps, return_inverse=True)
        return self.images.read(camera, self.names[episode], once)[back]
