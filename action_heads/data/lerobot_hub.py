"""The location of a LeRobotDataset's files, in a local folder or on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from action_heads._util.extras import require
from action_heads._util.paths import path_of
from action_heads.data.bounded_reads import BadData
from action_heads.data.spec import Spec
from action_heads.io.hub_errors import hub_errors, is_local, reason_of_snapshot

VERSION = "v3.0"  # the tag that lerobot requests from the Hub


class Place:
    """The folder `root` of a dataset: a local folder, or a snapshot from the Hub, to which `fetch` adds files.

    A dataset that is opened with its observations is located as lerobot does, since lerobot reads its videos.
    """

    def __init__(self, spec: Spec, observed: bool):
        self.spec = spec
        self.hub: dict[str, Any] | None = None  # arguments of a download; None for a local folder
        here = folder_of(spec)
        if observed:
            require("lerobot", "lerobot")
        if here is not None:
            self.root = here
        elif observed:
            self._as_lerobot()
        else:
            self.hub = {"revision": spec.options.get("revision")}
            self.fetch("meta/info.json")

    def _as_lerobot(self) -> None:
        """Use lerobot's own copy. If there is none, download the version's tag, or else the main branch."""
        constants = require("lerobot.utils.constants", "lerobot")
        self.root = Path(constants.HF_LEROBOT_HOME) / self.spec.where
        if (self.root / "meta/info.json").exists() and "revision" not in self.spec.options:
            return
        revision = self.spec.options.get("revision", VERSION)
        self.hub = {"revision": revision, "cache_dir": constants.HF_LEROBOT_HUB_CACHE}
        try:
            self.fetch("meta/info.json")
        except OSError as error:
            if "revision" in self.spec.options or not no_revision(error):
                raise
            self.hub["revision"] = None  # The dataset lacks the tag; `read_info` checks its version.
            self.fetch("meta/info.json")

    def fetch(self, *patterns: str) -> None:
        """Download files that match the patterns, if the dataset is on the Hub."""
        if self.hub is not None:
            from huggingface_hub import snapshot_download

            with fetching(self.spec):
                given = {"repo_type": "dataset", **self.hub, "allow_patterns": list(patterns)}
                self.root = Path(snapshot_download(self.spec.where, **given))


@contextmanager
def fetching(spec: Spec) -> Iterator[None]:
    """Turn an error of the Hub or the network into an OSError that names the dataset and the remedy."""
    try:
        yield
    except hub_errors() as error:
        if is_local(error):
            raise
        where, revision = spec.where, spec.options.get("revision")
        cause = reason_of_snapshot(error, f"datasets/{where}", revision)
        raise OSError(
            f"{spec}: there is no folder {where} here, and the dataset {where} could not be downloaded from the "
            f"Hub: {cause}. Without a network, name a folder that holds a copy: lerobot:/path/to/it"
        ) from error


def folder_of(spec: Spec) -> Path | None:
    """Return the local folder of a spec, or None if the spec names a dataset on the Hub."""
    root = path_of(spec.where)
    if root.exists():
        if not (root / "meta/info.json").exists():
            raise BadData(f"{spec}: {root} has no meta/info.json, so it is not a LeRobotDataset. Name its top folder.")
        return root
    if root.is_absolute() or spec.where.count("/") != 1:
        raise FileNotFoundError(
            f"{spec}: there is no folder {spec.where}. Check the path, or give a dataset on the Hub as OWNER/NAME."
        )
    return None


def no_revision(error: OSError) -> bool:
    """Return whether the Hub has the dataset, but not the requested revision."""
    from huggingface_hub import errors

    return isinstance(error.__cause__, errors.RevisionNotFoundError)
