"""Find the head that a saved adapter points to, even if both were moved.

A pointer names a bundled head, a Hub repository, or an absolute folder. If the folder was moved, the head is searched
under the same name near the adapter's file, and accepted only if it has the fingerprint of the head that the adapter
was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from action_heads._util.checks import as_device, as_dtype
from action_heads.head import ActionHead
from action_heads.io import files, hub

UP, DEEP = 4, 3  # Search in so many folders above the adapter, for so many trailing parts of the pointer's path.


def load_head(
    pointer: Mapping[str, Any], file: Path, head: ActionHead | str | Path | None = None, **options: Any
) -> ActionHead:
    """Load the head that an adapter's file points to.

    Args:
        pointer: name, fingerprint, path, revision and subfolder of the head.
        file: the file that the pointer was read from.
        head: the head itself, or its place; replaces the pointer.
        **options: options of `ActionHead.from_pretrained`; one that is None counts as not given.

    Raises:
        HeadNotFoundError: the head is not at the pointer's place, nor near the file.
        ValueError: the head was never saved, or `head` is a module of another dtype or device than the options say.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(head, ActionHead):
        check_same(head, options)
        return head
    if head is not None:
        return ActionHead.from_pretrained(head, **options)
    path = pointer["path"]
    if path is None:
        raise ValueError(
            f"{file} was trained on the head {pointer['name']}, which was never saved. Load or build that head and "
            "pass it as head=."
        )
    for folder in candidates(path, pointer["subfolder"], file):
        if fingerprint_in(folder) == pointer["fingerprint"]:
            return ActionHead.from_pretrained(folder, **options)
    if is_folder(path):
        raise hub.HeadNotFoundError(
            f"{file} points to the head {pointer['name']} with fingerprint {pointer['fingerprint']} in the folder "
            f"{path}, but it is neither there nor near {file.parent}. If it was moved, pass its folder or Hub id as "
            "head=."
        )
    at = {"revision": pointer["revision"], "subfolder": pointer["subfolder"]}
    return ActionHead.from_pretrained(path, **at, **options)


def check_same(head: ActionHead, options: Mapping[str, Any]) -> None:
    """Raise if these options ask for another dtype or device than those of a head that is already loaded."""
    if "dtype" in options and (wanted := as_dtype(options["dtype"])) != head.dtype:
        raise ValueError(f"dtype is {wanted}, but head= is a module of {head.dtype}. Call head.to({wanted}) first.")
    if "device" in options:
        place = torch.empty(0, device=as_device(options["device"])).device  # "cuda" is "cuda:0" in a tensor
        if place != head.device:
            raise ValueError(
                f"device is {place}, but head= is a module on {head.device}. Call head.to({str(place)!r}) first."
            )


def absolute(name_or_path: str | Path) -> str:
    """Return the path for a pointer: the absolute path of a local folder, or the name unchanged."""
    folder = Path(name_or_path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else str(name_or_path)


def is_folder(path: str) -> bool:
    """Return whether a pointer's path is absolute, so that it can only be a folder, of this machine or another."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def is_kept(head: ActionHead) -> bool:
    """Return whether a head's place still holds it: a bundled head, a Hub repository, or a folder with its fingerprint.

    The Hub is not asked.
    """
    path, subfolder = head.source["path"], head.source["subfolder"]
    if path is None or not is_folder(path):
        return path is not None
    return fingerprint_in(Path(path) / (subfolder or "")) == head.fingerprint()


def candidates(path: str, subfolder: str | None, file: Path) -> Iterator[Path]:
    """Yield the folders that may hold the head: the pointer's own, then those of that name near the adapter's file."""
    if path in hub.bundled():
        return
    yield Path(path) / (subfolder or "")
    parts = (PureWindowsPath if "\\" in path else PurePosixPath)(path).parts
    for base in list(file.absolute().parents)[:UP]:
        for count in range(1, min(DEEP, len(parts)) + 1):
            yield base.joinpath(*parts[-count:]) / (subfolder or "")


def fingerprint_in(folder: Path, name: str = "config.json") -> str | None:
    """Return the fingerprint in the config of a folder, or None if it has no readable config of that name."""
    try:
        return files.read_json(folder / name).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return None
