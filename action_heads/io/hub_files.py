"""Download files of one commit from the Hub, or take them from its cache.

huggingface_hub is imported inside the functions, since the import takes a quarter of a second.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from action_heads.io import folders
from action_heads.io.bundled_heads import HeadNotFoundError, alternatives
from action_heads.io.hub_calls import library, patience, within
from action_heads.io.hub_errors import endpoint, hub_errors, is_local, reason

COMMIT = re.compile(r"[0-9a-f]{40}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFiles:
    """Files of one commit of a Hub repository, and the options of `find` for their download."""

    repo_id: str
    files: Sequence[str]
    revision: str | None
    subfolder: str | None
    cache_dir: str | os.PathLike[str] | None
    token: str | bool | None = field(repr=False)
    local_files_only: bool = False
    force_download: bool = False

    def folder(self) -> Path:
        """Return the folder in the Hub's cache that holds all files, after downloading missing ones."""
        from huggingface_hub import errors
        from huggingface_hub.utils import validate_repo_id

        if self.local_files_only and self.force_download:
            raise ValueError("local_files_only and force_download exclude each other; pass only one of them")
        try:
            validate_repo_id(self.repo_id)
        except errors.HFValidationError as error:
            raise self._not_found(reason(error, self.repo_id, self.revision, "")) from error
        # A commit never changes, so its cached copy is current.
        pinned = COMMIT.fullmatch(self.revision or "") is not None
        if (self.local_files_only or (pinned and not self.force_download)) and (folder := self._cached()):
            return folder
        if self.local_files_only:
            raise self._not_found("the cache does not hold all of it; leave out local_files_only once to download it")
        try:
            # Since 1.0 hf_hub_download retries a dead network for 23 s for each file. This request is not retried.
            within(patience(), lambda: self._probe(self.files[0]))
            folder = self._download()
        except hub_errors() as error:
            if is_local(error):
                raise
            return self._after(error)
        if other := folders.other_kind(folder, self.files):
            raise self._not_found(other)
        return folder

    def _probe(self, file: str) -> None:
        """Ask for a file without downloading it."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.repo_id, file, subfolder=self.subfolder, revision=self.revision)
        get_hf_file_metadata(url, token=self.token, timeout=patience(), **library())

    def _download(self) -> Path:
        from huggingface_hub import hf_hub_download

        options = {
            "subfolder": self.subfolder,
            "cache_dir": self.cache_dir,
            "token": self.token,
            "force_download": self.force_download,
            **library(),
        }
        first = Path(hf_hub_download(self.repo_id, self.files[0], revision=self.revision, **options))
        # The other files come from the same commit as the first, even if someone pushes in between.
        commit = first.parents[len(Path(self.subfolder or "").parts)].name
        for file in self.files[1:]:
            hf_hub_download(self.repo_id, file, revision=commit, **options)
        return first.parent

    def _cached(self) -> Path | None:
        """Return the folder of a complete copy in the cache, or None."""
        from huggingface_hub import try_to_load_from_cache

        # Since 1.x hf_hub_download(local_files_only=True) may still use the network.
        names = [f"{self.subfolder}/{file}" if self.subfolder else file for file in self.files]
        root = os.fspath(self.cache_dir) if self.cache_dir is not None else None
        paths = [try_to_load_from_cache(self.repo_id, name, cache_dir=root, revision=self.revision) for name in names]
        return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None

    def _after(self, error: BaseException) -> Path:
        """Return the cached copy after an error of the Hub.

        Raises:
            HeadNotFoundError: there is none, or the Hub said that the revision or a file does not exist.
        """
        from huggingface_hub import errors

        cause = reason(error, self.repo_id, self.revision, "pass token=, set HF_TOKEN or run `hf auth login`")
        lacks = isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError)
        if lacks:
            cause += self._content()
        final = lacks or isinstance(error, errors.RevisionNotFoundError)
        if not (final or self.force_download) and (folder := self._cached()):
            logger.warning("%s: using the cached copy, since %s", self.repo_id, cause)
            return folder
        raise self._not_found(cause) from error

    def _content(self) -> str:
        """Return a sentence on the content of a repository that lacks a file, judged by its other files."""
        there = []
        for file in {file for kind in folders.KINDS for file in kind.files}:
            with suppress(*hub_errors()):
                within(patience(), lambda file=file: self._probe(file))
                there.append(file)
        kind = folders.by_files(there)
        return f". It holds {kind.name}: use {folders.read_by(kind, self.repo_id)}" if kind else ""

    def _not_found(self, cause: str) -> HeadNotFoundError:
        tried = f"{endpoint()}/{self.repo_id}, revision {self.revision or 'main'}, for {', '.join(self.files)}"
        wanted = folders.wanted(self.files)
        here = f"no folder {self.repo_id!r} in {Path.cwd()}, and no {wanted} {self.repo_id!r} from the Hub"
        return HeadNotFoundError(f"{here}: {cause}\n  tried: {tried}\n{alternatives(self.repo_id, self.files)}")
