"""Find heads in local folders, among the bundled ones and on the Hugging Face Hub, and publish them there.

`find` turns a name into a folder, and `push` publishes a folder as a Hub repository. The rest of the library sees only
folders. huggingface_hub is imported inside the functions, since the import takes a quarter of a second.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from action_heads._util.names import nearest
from action_heads.io import folders
from action_heads.io.hub_calls import library, patience, within
from action_heads.io.hub_errors import endpoint, hub_errors, is_local, reason

WEIGHTS = Path(__file__).parents[1] / "weights"
_PREFIX = "dae/"
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


class HeadNotFoundError(FileNotFoundError):
    """An error about a head or an adapter that was not found. It says what was tried, why it failed and what exists."""


class PushError(OSError):
    """An error about a folder that could not be published. It says where to, why, and the remedy."""


def bundled() -> dict[str, Path]:
    """Return the heads that come with the package, as a dict from name to folder. They need no network."""
    return {_PREFIX + config.parent.name: config.parent for config in sorted(WEIGHTS.glob("*/config.json"))}


def find(
    name_or_path: str | os.PathLike[str],
    files: Sequence[str] = ("config.json", "model.safetensors"),
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return a local folder that holds all of `files`.

    The name is looked up in this order: an existing folder; a bundled head ("dae/mlp-5m-fk", or "mlp-5m-fk" for short);
    a Hub repository. If the Hub cannot be reached, a cached copy is used.

    Args:
        name_or_path: a folder, the name of a bundled head, or a Hub id "owner/name". A `Path` is always a folder.
        files: names of the files that are needed.
        revision: branch, tag or commit of a Hub repository.
        subfolder: folder within the folder or repository.
        cache_dir: folder of the Hub's cache; the default of huggingface_hub if None.
        token: token for the Hub, or whether to use the stored one.
        local_files_only: use only the cache.
        force_download: download again what the cache already holds.

    Raises:
        HeadNotFoundError: nothing was found. The message says what was tried and which heads exist.
        ValueError: a revision was given for a local folder, or the options contradict each other.

    Examples:
        >>> from action_heads.io import hub
        >>> hub.find("dae/mlp-5m-fk").name
        'mlp-5m-fk'
    """
    folder = _local(name_or_path, files, revision is not None)
    name = os.fspath(name_or_path)
    if folder is None:
        options = cache_dir, token, local_files_only, force_download
        return HubFiles(name, files, revision, subfolder, *options).folder()
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} was given for {name!r}, which is the local folder {folder}, but only Hub "
            "repositories have revisions. Leave out the revision; if you mean the Hub, rename the folder."
        )
    folder = folder / (subfolder or "")
    if missing := [file for file in files if not (folder / file).is_file()]:
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "(no such folder)"
        holds = "" if folders.kind_of(folder) else f"; it holds {there}"
        what = folders.remedy(folder, files)
        raise HeadNotFoundError(f"{folder} lacks {', '.join(missing)}{holds}.{what}\n{_alternatives(name, files)}")
    if other := folders.other_kind(folder, files):
        raise HeadNotFoundError(f"{other}.\n{_alternatives(name, files)}")
    return folder


def load(
    name_or_path: str | os.PathLike[str],
    read: Callable[[Path], _T],
    files: Sequence[str] = ("config.json", "model.safetensors"),
    **options: Any,
) -> tuple[_T, Path]:
    """Read the folder that `find` returns.

    A copy from the Hub may have been damaged in transfer or on the disk. If `read` fails on it with a `ValueError`,
    such as a `WeightFileError`, it is downloaded again once. A local folder is only read.

    Args:
        name_or_path: as in `find`.
        read: a function from the folder to the result.
        files: as in `find`.
        **options: the other options of `find`.

    Returns:
        The result of `read`, and the folder.

    Raises:
        HeadNotFoundError: nothing was found.
        WeightFileError: the copy from the Hub cannot be read.
        ValueError: whatever `read` raises for a local folder.
    """
    from action_heads.io.files import WeightFileError  # Imported here, since it imports torch.

    folder = find(name_or_path, files, **options)
    try:
        return read(folder), folder
    except ValueError as error:
        if options.get("force_download") or _local(name_or_path, files, bool(options.get("revision"))) is not None:
            raise
        damage = error
    remedy = f"This is the copy of {name_or_path} from the Hub in {folder}"
    if options.get("local_files_only"):
        raise WeightFileError(
            f"{damage}\n{remedy}. It was not downloaded again because of local_files_only=True. Call once with "
            "force_download=True instead."
        ) from damage
    logger.warning("the copy of %s cannot be read and is downloaded again (%s)", name_or_path, damage)
    try:
        folder = find(name_or_path, files, **{**options, "force_download": True})
    except (HeadNotFoundError, OSError) as error:
        raise WeightFileError(
            f"{damage}\n{remedy}, and downloading it again failed. Call with force_download=True when the Hub can be "
            f"reached. {error}"
        ) from damage
    try:
        return read(folder), folder
    except ValueError as error:
        raise WeightFileError(
            f"{error}\n{remedy}. It was downloaded again just now, as with force_download=True, without success. It is "
            f"damaged on the Hub, or of another release. Tell the owner of {endpoint()}/{name_or_path}"
        ) from error


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder in the Hub's cache holds; None for other folders."""
    parts = folder.parts
    after = parts[parts.index("snapshots") + 1 :] if "snapshots" in parts else ()
    return after[0] if after and _COMMIT.fullmatch(after[0]) else None


def contents(folder: Path) -> list[str]:
    """List the files that `push` publishes: all in the folder and below, except hidden ones (.git, .env, drafts)."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    return [name for name in names if not re.search(r"(^|/)\.", name)]


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload with action-heads",
) -> str:
    """Publish a folder as one commit to a Hub repository, which is created if it does not exist.

    Hidden files are not published.

    Args:
        folder: the folder.
        repo_id: the repository, "owner/name".
        private: whether a new repository is private; the default of the owner if None.
        token: token for the Hub, or whether to use the stored one.
        revision: an existing branch; the main branch if None.
        create_pr: open a pull request instead.
        commit_message: the message of the commit.

    Returns:
        The URL of the commit or the pull request. A commit's URL ends in its hash, a revision for `find`.

    Raises:
        PushError: the folder is empty, or the Hub refused or could not be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    if not (names := contents(folder)):
        raise PushError(f"nothing to publish: {folder} is {'empty' if folder.is_dir() else 'not a folder'}")
    api = HfApi(token=token, **library())
    try:
        # The Hub's client has no timeout for this call. Half a minute turns a dead network into an error.
        within(max(30.0, patience()), lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        # Since 1.x upload_folder may split a folder into several commits.
        info = api.create_commit(
            repo_id,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except hub_errors() as error:
        if is_local(error):
            raise
        cause = reason(error, repo_id, revision, "use a token with write access to it")
        raise PushError(f"{folder} could not be published to {endpoint()}/{repo_id}: {cause}") from error
    return info.pr_url or info.commit_url


def _local(name: str | os.PathLike[str], files: Sequence[str], only_the_hub: bool) -> Path | None:
    """Return the local folder that a name stands for, or None for a Hub id. Raise if it is neither.

    A `Path` is always a folder; a string may also be a bundled name. `only_the_hub` is as in `refusal_of_path`.
    """

    def nothing(what: str) -> HeadNotFoundError:
        return _nothing(name, what, files)

    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise nothing(f"it is of type {type(name).__name__}; expected a str or a Path")
    try:
        folder = Path(text).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
        may_be_id = isinstance(name, str) and _HUB_ID.fullmatch(text) is not None
        refusal = folders.refusal_of_path(text, only_the_hub) if may_be_id else None
    except (OSError, RuntimeError, ValueError) as error:  # No permission, an unknown ~user, or a null byte.
        raise nothing(f"the folder {text!r} cannot be read ({error})") from error
    if text and is_folder:  # Path('') would be the working folder, but an empty name is a mistake.
        return folder
    heads = bundled() if isinstance(name, str) else {}
    if head := heads.get(text) or heads.get(_PREFIX + text):
        return head
    if refusal:
        raise nothing(refusal)
    if may_be_id:
        return None
    if is_file:
        raise nothing(f"it is a file; pass its folder, {os.fspath(folder.parent)!r}")
    raise nothing(folders.nothing_there(text) if text else "an empty name")


def _nothing(name: Any, what: str, files: Sequence[str]) -> HeadNotFoundError:
    wanted = folders.wanted(files)
    bundled = ", the name of a bundled head," * (wanted == "head")
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    return HeadNotFoundError(
        f"no {wanted} {text!r}: {what}. Pass a folder ('./my-{wanted}'){bundled} or a Hub id ('owner/name')\n"
        f"{_alternatives(str(text), files)}"
    )


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
        pinned = _COMMIT.fullmatch(self.revision or "") is not None
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
        return HeadNotFoundError(f"{here}: {cause}\n  tried: {tried}\n{_alternatives(self.repo_id, self.files)}")


def _alternatives(given: str | os.PathLike[str], files: Sequence[str]) -> str:
    """Return which heads exist and what makes others; of adapters and policies only what makes them."""
    if (wanted := folders.wanted(files)) != "head":
        return f"  {folders.MADE_BY[wanted]}"
    names = ", ".join(bundled()) or f"none in this installation ({WEIGHTS})"
    near = nearest(os.fspath(given), bundled())
    return (
        f"  bundled heads, which need no network: {names}{near}\n  to train one yourself: action-heads pretrain --help"
    )
