"""LeRobotDataset v3, its low-dimensional columns alone, a data file at a time; lerobot itself is not needed.

meta/info.json, meta/episodes/chunk-*/file-*.parquet, data/chunk-*/file-*.parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from action_heads.data import schema as columns
from action_heads.data.lerobot_info import Episode, read_episodes, read_info
from action_heads.data.lerobot_rows import Rows
from action_heads.data.raw import BadData, Raw
from action_heads.data.schema import Schema
from action_heads.data.spec import Spec
from action_heads.io.hub_errors import hub_errors, is_local, reason


@contextmanager
def fetching(spec: Spec) -> Iterator[None]:
    """Say of which dataset, and what helps, if the Hub or the network is at fault: an OSError."""
    from huggingface_hub import errors

    try:
        yield
    except hub_errors() as error:
        if is_local(error):
            raise
        where, revision = spec.where, spec.options.get("revision")
        # Of a Hub that cannot be reached only the lack of a cached copy is said, not why it cannot.
        reached = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
        cause = reason(reached or error, f"datasets/{where}", revision, "set HF_TOKEN or run `hf auth login`")
        raise OSError(
            f"{spec}: there is no folder {where} here, and the dataset {where} could not be had from the "
            f"Hub: {cause}. Where there is no network, name a folder that holds a copy: lerobot:/path/to/it"
        ) from error


def folder_of(spec: Spec) -> Path | None:
    """The folder that a spec names; None where it can only be a dataset on the Hub."""
    root = Path(spec.where).expanduser()
    if root.exists():
        if not (root / "meta/info.json").exists():
            raise BadData(f"{spec}: {root} has no meta/info.json, so it is no LeRobotDataset")
        return root
    if root.is_absolute() or spec.where.count("/") != 1:
        raise FileNotFoundError(f"{spec}: there is no folder {spec.where}, and a repo_id is OWNER/NAME")
    return None


def fetched(spec: Spec, patterns: Sequence[str], revision: str | None, **options: Any) -> Path:
    """The folder with a snapshot of some files of a dataset on the Hub."""
    from huggingface_hub import snapshot_download

    with fetching(spec):
        given = {"repo_type": "dataset", "revision": revision, "allow_patterns": list(patterns)}
        return Path(snapshot_download(spec.where, **given, **options))


# Robots whose joints LeRobot writes as -100 to 100, unless it is told to write degrees.
NORMALISING = re.compile(r"(bi_)?(so_?10[01]|so_|koch|lekiwi|omx)")


class LeRobot:
    """A dataset in a folder, or on the Hub by its repo_id: then its meta and data files, no videos, are fetched."""

    def __init__(self, spec: Spec):
        self.spec, self.source = spec, str(spec)
        found, revision = folder_of(spec), spec.options.get("revision")
        self.root = found or fetched(spec, ["meta/info.json"], revision)
        self.info = read_info(self.root, self.source)
        widths = self.info.widths()
        if path := spec.options.get("columns"):
            self.schema = columns.check(Schema.from_json(path), widths, self.source)
        else:
            self.schema = columns.choose(widths, spec.options.get("schema"), self.source)
        self.widths = {column.name: widths[column.name] for column in self.schema.columns().values()}
        if found is None:
            self.root = fetched(spec, ["meta/*", "data/*"], revision)
        self.rate_hz = self.info.fps
        self.normalises = bool(self.schema.joints) and NORMALISING.match(self.info.robot) is not None
        self.corpus = spec.where.rstrip("/").rsplit("/", 1)[-1]
        self.rows = Rows(self.root, read_episodes(self.root, self.info, self.source), self.source)
        self.identity = [self.corpus] + [
            [str(path.relative_to(self.root)), path.stat().st_size, path.stat().st_mtime_ns]
            for path in [self.root / "meta/info.json", *self.rows.files]
        ]

    def shards(self) -> Iterator[list[Raw]]:
        """The episodes of one file after another."""
        for path, episodes in self.rows.files.items():
            yield self._read(path, episodes)

    def _read(self, path: Path, episodes: list[Episode]) -> list[Raw]:
        values = self.rows.read(path, self.widths)
        parts = {key: values[column.name][:, column.part] for key, column in self.schema.columns().items()}
        raws, begin = [], 0
        for episode in episodes:
            now = slice(begin, begin + episode.length)
            joints, position, rotation, gripper = (
                parts[key][now] if key in parts else None for key in ("joints", "position", "rotation", "gripper")
            )
            name = f"episode_{episode.index:06d}"
            gripper = None if gripper is None else gripper[:, 0]
            raws.append(Raw(self.corpus, name, joints, position, rotation, gripper))
            begin += episode.length
        return raws
