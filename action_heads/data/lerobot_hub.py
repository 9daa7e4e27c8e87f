"""Locate the files of a LeRobotDataset: in a local folder, or on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from action_heads._util.extras import require
from action_heads.data.bounded_reads import BadData
from action_heads.data.spec import Spec
from action_heads.io.hub_errors import hub_errors, is_local, reason

VERSION = "v3.0"  # the tag that lerobot looks for on the Hub


class Place:
    """The folder `root` that a spec names, or a snapshot of a dataset on the Hub, to which `fetch` adds files.

    With its observations a dataset is looked for where lerobot, which will read its videos, looks.
    """

    def __init__(self, spec: Spec, observed: bool):
        self.spec = spec
        self.hub: dict[str, Any] | None = None  # how files are fetched; None where they are here
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
        """Take lerobot's own copy; if there is none, fetch by the tag of the version, or else the main branch."""
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
            self.hub["revision"] = None  # a dataset without the tag, whose version is looked at then
            self.fetch("meta/info.json")

    def fetch(self, *patterns: str) -> None:
        """Fetch files of a dataset on the Hub."""
        from huggingface_hub import snapshot_download

        if self.hub is not None:
            with fetching(self.spec):
                given = {"repo_type": "dataset", **self.hub, "allow_patterns": list(patterns)}
                self.root = Path(snapshot_download(self.spec.where, **given))


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
    """Return the folder that a spec names; None where it can only be a dataset on the Hub."""
    root = Path(spec.where).expanduser()
    if root.exists():
        if not (root / "meta/info.json").exists():
            raise BadData(f"{spec}: {root} has no meta/info.json, so it is no LeRobotDataset")
        return root
    if root.is_absolute() or spec.where.count("/") != 1:
        raise FileNotFoundError(f"{spec}: there is no folder {spec.where}, and a repo_id is OWNER/NAME")
    return None


def no_revision(error: OSError) -> bool:
    """Tell whether the Hub has the dataset, but not the tag that was asked for."""
    from huggingface_hub import errors

    return isinstance(error.__cause__, errors.RevisionNotFoundError)
