"""Where heads are found and published: a local folder, the heads bundled with the package, the Hugging Face Hub.

`find` turns a name into a folder, `push` a folder into a Hub repository. Only folders cross this border, so nothing
else in the library knows of the Hub. huggingface_hub is imported inside the functions: it costs a quarter of a second.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    """No head under this name: the message says what was tried, why it failed, and which heads there are."""


class PushError(OSError):
    """A folder could not be published: the message says where to, why, and the remedy."""


def bundled() -> dict[str, Path]:
    """The heads that come with the package, name -> folder: they need no network."""
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
    """A local folder that holds all of `files`.

    Looked for in this order: a folder that exists; a bundled head ("dae/mlp-5m-fk", or "mlp-5m-fk" for short); the
    Hub id "owner/name", whose cached copy serves where the Hub cannot be reached. The first two have no revisions, so
    asking for one is an error, and nothing to download, so `force_download` changes nothing.
    """
    folder = _local(name_or_path, revision is not None)
    name = os.fspath(name_or_path)
    if folder is None:
        return find_on_hub(name, files, revision, subfolder, cache_dir, token, local_files_only, force_download)
    if revision is not None:
        raise ValueError(
            f"revision={revision!r} was given for {name!r}, which is the local folder {folder}: only a Hub repository "
            "has revisions. Leave the revision out, or rename the folder if you meant the Hub"
        )
    folder = folder / (subfolder or "")
    if missing := [file for file in files if not (folder / file).is_file()]:
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "(no such folder)"
        what = folders.remedy(folder, files)
        raise HeadNotFoundError(f"{folder} lacks {', '.join(missing)}; it holds {there}.{what}\n{_alternatives(name)}")
    if other := folders.other_kind(folder, files):
        raise HeadNotFoundError(f"{other}.\n{_alternatives(name)}")
    return folder


def load(
    name_or_path: str | os.PathLike[str],
    read: Callable[[Path], _T],
    files: Sequence[str] = ("config.json", "model.safetensors"),
    **options: Any,
) -> tuple[_T, Path]:
    """`read` the folder that `find` gives; returns what was read, and the folder.

    A copy from the Hub that can't be read, with a `ValueError` such as `WeightFileError`, may have been damaged on the
    way or on this disk: it is fetched anew, once. A folder of this machine is read as it is.
    """
    from action_heads.io.files import WeightFileError  # which imports torch

    folder = find(name_or_path, files, **options)
    try:
        return read(folder), folder
    except ValueError as error:
        if options.get("force_download") or _local(name_or_path, bool(options.get("revision"))) is not None:
            raise
        damage = error
    remedy = f"This is a copy of {name_or_path} from the Hub, in {folder}"
    if options.get("local_files_only"):
        raise WeightFileError(
            f"{damage}\n{remedy}. local_files_only=True keeps it from being fetched anew: call once with "
            "force_download=True instead"
        ) from damage
    logger.warning("%s can't be read and is fetched anew (%s)", name_or_path, damage)
    try:
        folder = find(name_or_path, files, **{**options, "force_download": True})
    except (HeadNotFoundError, OSError) as error:
        raise WeightFileError(
            f"{damage}\n{remedy}, and it could not be fetched anew: call with force_download=True once the Hub can be "
            f"reached. {error}"
        ) from damage
    try:
        return read(folder), folder
    except ValueError as error:
        raise WeightFileError(
            f"{error}\n{remedy}. It was fetched anew just now, as force_download=True does, and is no better: it is "
            f"damaged on the Hub, or of another release. Tell the owner of {endpoint()}/{name_or_path}"
        ) from error


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the Hub's cache holds; None for other folders."""
    parts = folder.parts
    after = parts[parts.index("snapshots") + 1 :] if "snapshots" in parts else ()
    return after[0] if after and _COMMIT.fullmatch(after[0]) else None


def contents(folder: Path) -> list[str]:
    """What `push` sends of a folder: all files in it and below, but hidden ones (.git, .env, half-saved drafts)."""
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
    """Publish a folder as one commit, making the repository if need be; returns the commit's (or pull request's) URL.

    Hidden files stay at home. `revision` is a branch that exists. A commit's URL ends in its hash, which `find` takes
    as a revision.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    if not (names := contents(folder)):
        raise PushError(f"nothing to publish: {folder} is {'empty' if folder.is_dir() else 'not a folder'}")
    api = HfApi(token=token, **library())
    try:
        # The Hub's client waits without limit for this answer; half a minute makes a dead network an error.
        within(max(30.0, patience()), lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        # Not upload_folder: since 1.x it may spread a folder over several commits.
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
        cause = reason(error, repo_id, revision, "publishing needs a token with write access to it")
        raise PushError(f"{folder} could not be published to {endpoint()}/{repo_id}: {cause}") from error
    return info.pr_url or info.commit_url


def _local(name: str | os.PathLike[str], only_the_hub: bool = False) -> Path | None:
    """The folder that a name means on this machine; None where it can only be a Hub id; an error where not even that.

    A Path always means the disk; a string may also be a bundled name. `only_the_hub` has what was asked for besides.
    """
    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise _no_head(name, f"it is of type {type(name).__name__}, not a str or a Path")
    try:
        folder = Path(text).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
        may_be_id = isinstance(name, str) and _HUB_ID.fullmatch(text) is not None
        refusal = folders.refusal_of_path(text, only_the_hub) if may_be_id else None
    except (OSError, RuntimeError, ValueError) as error:  # no permission; ~nobody; a null byte
        raise _no_head(name, f"no folder {text!r} can be read ({error})") from error
    if text and is_folder:  # Path('') is the working folder, which nobody means by an empty name
        return folder
    heads = bundled() if isinstance(name, str) else {}
    if head := heads.get(text) or heads.get(_PREFIX + text):
        return head
    if refusal:
        raise _no_head(name, refusal)
    if may_be_id:
        return None
    if is_file:
        raise _no_head(name, f"it is a file; name its folder, {os.fspath(folder.parent)!r}")
    raise _no_head(name, folders.nothing_there(text, list(heads)) if text else "an empty name")


def _no_head(name: Any, what: str) -> HeadNotFoundError:
    works = "a folder ('./my-head'), a bundled name, or a Hub id as a string ('owner/name')"
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    return HeadNotFoundError(f"no head {text!r}: {what}. What works: {works}\n{_alternatives(str(text))}")


def find_on_hub(
    repo_id: str,
    files: Sequence[str],
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder in the Hub's cache that holds `files` at one commit, downloaded where need be."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import validate_repo_id

    def probe() -> None:
        url = hf_hub_url(repo_id, files[0], subfolder=subfolder, revision=revision)
        get_hf_file_metadata(url, token=token, timeout=patience(), **library())

    def download() -> Path:
        options = {"subfolder": subfolder, "cache_dir": cache_dir, "token": token, "force_download": force_download}
        first = Path(hf_hub_download(repo_id, files[0], revision=revision, **options, **library()))
        # The other files come from the commit that the first came from, even if someone pushes in between.
        commit = first.parents[len(Path(subfolder or "").parts)].name
        for file in files[1:]:
            hf_hub_download(repo_id, file, revision=commit, **options, **library())
        return first.parent

    def cached() -> Path | None:
        # Not hf_hub_download(local_files_only=True): since 1.x it may go to the network for its own ends.
        names = [f"{subfolder}/{file}" if subfolder else file for file in files]
        root = os.fspath(cache_dir) if cache_dir is not None else None
        paths = [try_to_load_from_cache(repo_id, name, cache_dir=root, revision=revision) for name in names]
        return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None

    def not_found(cause: str) -> HeadNotFoundError:
        tried = f"{endpoint()}/{repo_id}, revision {revision or 'main'}, for {', '.join(files)}"
        here = f"no folder {repo_id!r} in {Path.cwd()}, and no head {repo_id!r} from the Hub"
        return HeadNotFoundError(f"{here}: {cause}\n  tried: {tried}\n{_alternatives(repo_id)}")

    def holds() -> str:
        """What a repository is that lacks a file, as far as its other files tell."""
        there = []
        for file in {file for kind in folders.KINDS for file in kind.files}:
            url = hf_hub_url(repo_id, file, subfolder=subfolder, revision=revision)
            with suppress(*hub_errors()):
                within(patience(), lambda url=url: get_hf_file_metadata(url, token=token, timeout=patience()))
                there.append(file)
        kind = folders.by_files(there)
        return f". It holds {kind.name}: use {folders.read_by(kind, repo_id)}" if kind else ""

    if local_files_only and force_download:
        raise ValueError("local_files_only and force_download exclude each other: drop one")
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise not_found(reason(error, repo_id, revision, "")) from error
    pinned = _COMMIT.fullmatch(revision or "") is not None  # a commit cannot change, so its cached copy is never stale
    if (local_files_only or (pinned and not force_download)) and (folder := cached()):
        return folder
    if local_files_only:
        raise not_found("it is not in the cache in full; leave local_files_only out once to download it")
    try:
        # Since 1.0 hf_hub_download retries a dead network for 23 s a file. One request that is not retried goes ahead.
        within(patience(), probe)
        folder = download()
    except hub_errors() as error:
        if is_local(error):
            raise
        trouble = error
    else:
        if other := folders.other_kind(folder, files):
            raise not_found(other)
        return folder
    cause = reason(trouble, repo_id, revision, "pass token=, set HF_TOKEN or run `hf auth login`")
    if isinstance(trouble, errors.EntryNotFoundError) and not isinstance(trouble, errors.LocalEntryNotFoundError):
        cause += holds()
    # The Hub's word that there is no such revision or file is final; other trouble may leave a cached copy of use.
    final = isinstance(trouble, (errors.RevisionNotFoundError, errors.EntryNotFoundError))
    final = final and not isinstance(trouble, errors.LocalEntryNotFoundError)
    if not (final or force_download) and (folder := cached()):
        logger.warning("%s: using the cached copy; %s", repo_id, cause)
        return folder
    raise not_found(cause) from trouble


def _alternatives(given: str | os.PathLike[str]) -> str:
    names = ", ".join(bundled()) or f"none in this installation ({WEIGHTS})"
    near = nearest(os.fspath(given), bundled())
    return (
        f"  bundled heads, which need no network: {names}{near}\n  to train one yourself: action-heads pretrain --help"
    )
