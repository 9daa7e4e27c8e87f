"""LeRobotDataset v3, its low-dimensional columns alone, a data file at a time; lerobot itself is not needed.

meta/info.json, meta/episodes/chunk-*/file-*.parquet, data/chunk-*/file-*.parquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from action_heads.extras import require
from action_heads.hub_errors import hub_errors, is_local, reason
from action_heads.pretrain.sources import schema as columns
from action_heads.pretrain.sources.raw import BadData, Raw
from action_heads.pretrain.sources.schema import Schema
from action_heads.pretrain.sources.spec import Spec

_EPISODE = ["episode_index", "length", "data/chunk_index", "data/file_index"]


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


class LeRobot:
    """A dataset in a folder, or on the Hub by its repo_id: then its meta and data files, no videos, are fetched."""

    def __init__(self, spec: Spec):
        self.spec, self.source = spec, str(spec)
        self.root = Path(spec.where).expanduser()
        remote = not self.root.exists()
        if remote and (self.root.is_absolute() or spec.where.count("/") != 1):
            raise FileNotFoundError(f"{self.source}: there is no folder {spec.where}, and a repo_id is OWNER/NAME")
        if remote:
            self.root = self._fetch(["meta/info.json"])
        self.info = self._info()
        widths = {
            name: int(np.prod(feature["shape"]))
            for name, feature in self.info["features"].items()
            if feature["dtype"] not in ("image", "video", "string")
        }
        if path := spec.options.get("columns"):
            self.schema = columns.check(Schema.from_json(path), widths, self.source)
        else:
            self.schema = columns.choose(widths, spec.options.get("schema"), self.source)
        self.widths = {column.name: widths[column.name] for column in self.schema.columns().values()}
        if remote:
            self.root = self._fetch(["meta/*", "data/*"])
        self.rate_hz = float(self.info["fps"])
        self.corpus = spec.where.rstrip("/").rsplit("/", 1)[-1]
        self.files = self._files()
        self.identity = [self.corpus] + [
            [str(path.relative_to(self.root)), path.stat().st_size, path.stat().st_mtime_ns]
            for path in [self.root / "meta/info.json", *self.files]
        ]

    def _fetch(self, patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        where, revision = self.spec.where, self.spec.options.get("revision")
        with fetching(self.spec):
            return Path(snapshot_download(where, repo_type="dataset", revision=revision, allow_patterns=patterns))

    def _info(self) -> dict[str, Any]:
        path = self.root / "meta/info.json"
        if not path.exists():
            raise BadData(f"{self.source}: {self.root} has no meta/info.json, so it is no LeRobotDataset")
        info = json.loads(path.read_text(encoding="utf-8"))
        version = info.get("codebase_version", "unknown")
        if not version.startswith("v3"):
            raise BadData(
                f"{self.source} is a LeRobotDataset of version {version}; v3 is read here: convert it with "
                "`python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=...`"
            )
        return info

    def _files(self) -> dict[Path, list[tuple[int, int]]]:
        """Every data file in order, with the index and length of each episode in it."""
        parquet = require("pyarrow.parquet", "data")
        parts = sorted(self.root.glob("meta/episodes/*/*.parquet"))
        rows = [row for part in parts for row in parquet.read_table(part, columns=_EPISODE).to_pylist()]
        if not rows:
            raise BadData(f"{self.source} has no episodes: its recording was never finished, or the download was cut")
        found, expected = [row["episode_index"] for row in rows], list(range(len(rows)))
        if found != expected:
            at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise BadData(
                f"{self.source}: episode indices are not contiguous in meta/episodes: {found[at]} stands where {at} "
                "belongs. Write the dataset anew, for example with lerobot's dataset tools"
            )
        if self.info.get("total_episodes", len(rows)) != len(rows):
            raise BadData(
                f"{self.source}: meta/info.json counts {self.info['total_episodes']} episodes, meta/episodes has "
                f"{len(rows)}: the download was cut, or the recording never finished"
            )
        files: dict[Path, list[tuple[int, int]]] = {}
        for row in rows:
            name = self.info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
            files.setdefault(self.root / name, []).append((row["episode_index"], row["length"]))
        if missing := [str(path.relative_to(self.root)) for path in files if not path.exists()]:
            raise BadData(f"{self.source} lacks {', '.join(missing[:3])} ({len(missing)} files): download it again")
        return files

    def shards(self) -> Iterator[list[Raw]]:
        """The episodes of one file after another."""
        for path, episodes in self.files.items():
            yield self._read(path, episodes)

    def _read(self, path: Path, episodes: list[tuple[int, int]]) -> list[Raw]:
        parquet = require("pyarrow.parquet", "data")
        where = f"{self.source}, {path.relative_to(self.root)}"
        file = parquet.ParquetFile(path)
        if absent := [name for name in self.widths if name not in file.schema_arrow.names]:
            raise BadData(f"{where} lacks {', '.join(absent)}, which meta/info.json promises: download it again")
        table = file.read(columns=["episode_index", "frame_index", *self.widths])
        indices, lengths = (np.array(values) for values in zip(*episodes, strict=True))
        expected = np.repeat(indices, lengths)
        found = table["episode_index"].to_numpy()
        if len(found) != len(expected) or (found != expected).any():
            wrong = int((found[: len(expected)] != expected[: len(found)]).argmax())
            raise BadData(
                f"{where}: {len(found)} rows, but meta/episodes counts {len(expected)}, or the episodes are not in "
                f"order: row {wrong} is of episode {found[wrong]}, expected {expected[min(wrong, len(expected) - 1)]}"
            )
        frames = table["frame_index"].to_numpy()
        starts = np.cumsum(lengths) - lengths
        gap = frames != np.arange(len(frames)) - np.repeat(starts, lengths)
        if gap.any():
            raise BadData(
                f"{where}: episode {found[gap.argmax()]} is not contiguous, its row "
                f"{int(gap.argmax() - np.repeat(starts, lengths)[gap.argmax()])} has frame_index {frames[gap.argmax()]}"
            )
        values = {name: column_values(table[name], width, f"{where}, {name}") for name, width in self.widths.items()}
        parts = {key: values[column.name][:, column.part] for key, column in self.schema.columns().items()}
        return [
            Raw(
                self.corpus,
                f"episode_{index:06d}",
                *(None if key not in parts else parts[key][a : a + n] for key in ("joints", "position", "rotation")),
                gripper=parts["gripper"][a : a + n, 0] if "gripper" in parts else None,
            )
            for (index, n), a in zip(episodes, starts, strict=True)
        ]


def column_values(column: Any, width: int, where: str) -> np.ndarray:
    """A column of numbers, or of lists of them, -> (rows, width); a missing value is NaN."""
    flat = column.combine_chunks()
    while hasattr(flat, "flatten") and "list" in str(flat.type):
        flat = flat.flatten()
    values = np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float64)
    if values.size != len(column) * width:
        raise BadData(
            f"{where}: {values.size} values in {len(column)} rows, where meta/info.json promises {width} each"
        )
    return values.reshape(len(column), width)
