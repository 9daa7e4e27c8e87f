"""Where heads are found and published: a local folder, the heads bundled with the package, the Hugging Face Hub.

`find` turns a name into a folder, `push` a folder into a Hub repository. Only folders cross this border, so nothing
else in the library knows of the Hub. huggingface_hub is imported inside the functions: it costs a quarter of a second.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from action_heads.hub_errors import endpoint, hub_errors, is_local, reason
from action_heads.names import nearest

WEIGHTS = Path(__file__).parent / "weights"
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
    folder = _local(name_or_path)
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
        raise HeadNotFoundError(f"{folder} lacks {', '.join(missing)}; it holds {there}.\n{_alternatives(name)}")
    return folder


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
    api = HfApi(token=token, **_library())
    try:
        # The Hub's client waits without limit for this answer; half a minute makes a dead network an error.
        _within(max(30.0, _patience()), lambda: api.create_repo(repo_id, private=private, exist_ok=True))
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


def _local(name: str | os.PathLike[str]) -> Path | None:
    """The folder that a name means on this machine; None where it can only be a Hub id; an error where not even that.

    A Path always means the disk; a string may also be a bundled name.
    """
    text = os.fspath(name)
    folder = Path(text).expanduser()
    if text and folder.is_dir():  # Path('') is the working folder, which nobody means by an empty name
        return folder
    if isinstance(name, str):
        heads = bundled()
        if head := heads.get(text) or heads.get(_PREFIX + text):
            return head
        if _HUB_ID.fullmatch(text):
            return None
    what = "it is a file; name its folder" if folder.is_file() else "no such folder, nor a bundled head"
    works = "a folder ('./my-head'), a bundled name, or a Hub id as a string ('owner/name')"
    raise HeadNotFoundError(f"no head {text!r}: {what}. What works: {works}\n{_alternatives(text)}")


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
        get_hf_file_metadata(url, token=token, timeout=_patience(), **_library())

    def download() -> Path:
        options = {"subfolder": subfolder, "cache_dir": cache_dir, "token": token, "force_download": force_download}
        first = Path(hf_hub_download(repo_id, files[0], revision=revision, **options, **_library()))
        # The other files come from the commit that the first came from, even if someone pushes in between.
        commit = first.parents[len(Path(subfolder or "").parts)].name
        for file in files[1:]:
            hf_hub_download(repo_id, file, revision=commit, **options, **_library())
        return first.parent

    def cached() -> Path | None:
        # Not hf_hub_download(local_files_only=True): since 1.x it may go to the network for its own ends.
        names = [f"{subfolder}/{file}" if subfolder else file for file in files]
        root = os.fspath(cache_dir) if cache_dir is not None else None
        paths = [try_to_load_from_cache(repo_id, name, cache_dir=root, revision=revision) for name in names]
        return Path(str(paths[0])).parent if all(isinstance(path, str) for path in paths) else None

    def not_found(cause: str) -> HeadNotFoundError:
        tried = f"{endpoint()}/{repo_id}, revision {revision or 'main'}, for {', '.join(files)}"
        return HeadNotFoundError(
            f"no head {repo_id!r} from the Hub: {cause}\n  tried: {tried}\n{_alternatives(repo_id)}"
        )

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
        _within(_patience(), probe)
        return download()
    except hub_errors() as error:
        if is_local(error):
            raise
        trouble = error
    cause = reason(trouble, repo_id, revision, "pass token=, set HF_TOKEN or run `hf auth login`")
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


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """`call()`, or a TimeoutError after so many seconds.

    A thread, because the timeouts of HTTP clients bound neither the look-up of a name nor their own retries. It is a
    daemon: an answer that comes too late is dropped, and it cannot keep the interpreter from ending.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised again below, in the caller's thread
            answers.put((None, error))

    threading.Thread(target=work, name="action-heads-hub", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def _patience() -> float:
    """How many seconds the Hub has for its first answer, under the name that huggingface_hub itself uses."""
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 5)


def _library() -> dict[str, Any]:
    try:
        return {"library_name": "action-heads", "library_version": version("action-heads")}
    except PackageNotFoundError:  # run from a source tree that was never installed
        return {"library_name": "action-heads", "library_version": "unknown"}
