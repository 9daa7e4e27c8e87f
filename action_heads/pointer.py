"""Find the head that a saved adapter points to, also after both were moved.

A pointer names a bundled head, a Hub repository, or an absolute folder. Folders move: a head is then looked for under
the same name near the adapter's file, and taken only if its fingerprint is the one that the adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from action_heads.head import ActionHead
from action_heads.io import files, hub

UP, DEEP = 4, 3  # folders above the adapter that are looked in, and trailing parts of the pointer that are looked for


def load_head(
    pointer: Mapping[str, Any], file: Path, head: ActionHead | str | Path | None = None, **options: Any
) -> ActionHead:
    """Load the head of an adapter's `file`; `head`, if given, is used in place of the pointer.

    Args:
        pointer: name, fingerprint, path, revision and subfolder of the head, as the file has them.
        file: where the pointer was read.
        head: the head itself, or where it is now.
        options: for `ActionHead.from_pretrained`.

    Raises:
        HeadNotFoundError: the pointer leads nowhere, and no such head is near the file.
    """
    if isinstance(head, ActionHead):
        return head
    if head is not None:
        return ActionHead.from_pretrained(head, **options)
    path = pointer["path"]
    if path is None:
        raise ValueError(
            f"the head {pointer['name']} that {file} was trained on was never saved: load it yourself and pass it as "
            "head="
        )
    for folder in candidates(path, pointer["subfolder"], file):
        if fingerprint_in(folder) == pointer["fingerprint"]:
            return ActionHead.from_pretrained(folder, **options)
    if is_folder(path):
        raise hub.HeadNotFoundError(
            f"{file} points to its head, {pointer['name']} with fingerprint {pointer['fingerprint']}, in the folder "
            f"{path}: it is not there, nor near {file.parent}. If it was moved, pass head=, the folder or the Hub id "
            "of that head"
        )
    at = {"revision": pointer["revision"], "subfolder": pointer["subfolder"]}
    return ActionHead.from_pretrained(path, **at, **options)


def absolute(name_or_path: str | Path) -> str:
    """Return a pointer's path: an absolute one for a folder of this machine, else the name as it is."""
    folder = Path(name_or_path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else str(name_or_path)


def is_folder(path: str) -> bool:
    """Whether a pointer's path can only be a folder, of this machine or of another one."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def candidates(path: str, subfolder: str | None, file: Path) -> Iterator[Path]:
    """Yield folders where the head may be: the pointer's own, then those of its name near the adapter's file."""
    if path in hub.bundled():
        return
    yield Path(path) / (subfolder or "")
    parts = (PureWindowsPath if "\\" in path else PurePosixPath)(path).parts
    for base in list(file.absolute().parents)[:UP]:
        for count in range(1, min(DEEP, len(parts)) + 1):
            yield base.joinpath(*parts[-count:]) / (subfolder or "")


def fingerprint_in(folder: Path) -> str | None:
    """Return the fingerprint that a head's folder claims; None where there is no head that can be read."""
    try:
        return files.read_json(folder / "config.json").get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return None
