"""Find heads in local folders, among the bundled ones and on the Hugging Face Hub.

`find` turns a name into a folder. The rest of the library sees only folders.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from action_heads.io import folders
from action_heads.io.bundled_heads import PREFIX, HeadNotFoundError, alternatives, bundled
from action_heads.io.hub_errors import endpoint
from action_heads.io.hub_files import COMMIT, HubFiles

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_T = TypeVar("_T")
logger = logging.getLogger(__name__)


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
        raise HeadNotFoundError(f"{folder} lacks {', '.join(missing)}{holds}.{what}\n{alternatives(name, files)}")
    if other := folders.other_kind(folder, files):
        raise HeadNotFoundError(f"{other}.\n{alternatives(name, files)}")
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
    return after[0] if after and COMMIT.fullmatch(after[0]) else None


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
    if head := heads.get(text) or heads.get(PREFIX + text):
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
        f"{alternatives(str(text), files)}"
    )
