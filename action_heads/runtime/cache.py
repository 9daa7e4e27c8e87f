"""The cache of compiled code. Loading it runs it, so only this user may be able to write there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DRAFT = ".action-heads-build-"
PATIENCE = 60.0  # seconds to wait for another process that builds the same
OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_dir() -> Path:
    """Return the folder ACTION_HEADS_CACHE, or one in the user's cache."""
    if given := os.environ.get("ACTION_HEADS_CACHE"):
        return Path(given).expanduser().absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "action-heads"
    except RuntimeError as error:  # a user without a home
        raise OSError(f"nowhere to keep what is compiled ({error}): set ACTION_HEADS_CACHE to a folder") from None


def private(folder: Path, remedy: str = "set ACTION_HEADS_CACHE to a folder of your own") -> Path:
    """Return a folder in which only this user can put files, made if there is none.

    Raises:
        OSError: it can't be made, or others could change what lies there. The message has the path and a remedy.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found, real = folder.lstat(), folder.resolve(strict=True)
        within = real.stat()
    except (OSError, RuntimeError) as error:
        raise OSError(f"can't keep compiled code in {folder} ({error}): {remedy}") from error
    if not hasattr(os, "geteuid"):
        return folder
    if not stat.S_ISDIR(within.st_mode):
        raise OSError(f"{folder} is not a folder: remove it, or {remedy}")
    for status in (found, within):  # of a link too, which its owner could turn to another folder
        check_owner(folder, status, remedy)
    if within.st_mode & OTHERS:
        raise OSError(
            f"others can write to {folder} (mode {stat.S_IMODE(within.st_mode):o}), and what lies there is run: "
            f"empty it and use `chmod 700 {folder}`, or {remedy}"
        )
    for parent in (*folder.absolute().parents, *real.parents):
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise OSError(
                f"everybody can write to {parent} (mode {stat.S_IMODE(mode):o}), and so replace {folder}, from which "
                f"code is run: use `chmod o-w {parent}`, or {remedy}"
            )
    return folder


def check_owner(path: Path, status: os.stat_result, remedy: str) -> None:
    """Raise an OSError if a file or folder from which code is run is not this user's."""
    if status.st_uid != os.geteuid():
        raise OSError(
            f"{path} belongs to user {status.st_uid}, you are {os.geteuid()}, and what lies there is run: remove it, "
            f"or {remedy}"
        )


def kept(folder: Path, name: str, build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """Return what `load` makes of the file that `build` writes in `folder`, built unless a sound one lies there.

    The file is called `name` with its own hash in it, so both appear at once and whatever has another content is built
    again; so is what does not load. Many processes may do this at the same time.

    Raises:
        OSError: see `private`; or it can't be built, or does not load although it was just built.
    """
    private(folder)
    if (path := sound(folder, name)) is not None and (loaded := attempt(load, path)) is not None:
        return loaded
    with locked(folder) as alone:
        if (path := sound(folder, name)) is not None and (loaded := attempt(load, path)) is not None:
            return loaded  # another process was faster
        remove_drafts(folder, alone)
        for unsound in matching(folder, name):
            unsound.unlink()
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder))
        try:
            made = draft / name
            build(made)
            made.chmod(0o700)
            path = folder / f"{made.stem}-{hash_of(made)}{made.suffix}"
            os.replace(made, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    try:
        return load(path)
    except (OSError, AttributeError) as error:
        path.unlink(missing_ok=True)
        raise OSError(f"{path} was just built and does not load: {error}") from error


def attempt(load: Callable[[Path], T], path: Path) -> T | None:
    try:
        return load(path)
    except (OSError, AttributeError):  # of another machine, or without the functions that it should have
        return None


def sound(folder: Path, name: str) -> Path | None:
    """Return a file whose content is that of its name. One that others could have written is refused."""
    for path in matching(folder, name):
        status = path.lstat()
        remedy = f"remove {path}"
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no file of its own but a link or a folder, and it is run: {remedy}")
        if hasattr(os, "geteuid"):
            check_owner(path, status, remedy)
            if status.st_mode & OTHERS:
                raise OSError(
                    f"others can write to {path} (mode {stat.S_IMODE(status.st_mode):o}), and it is run: {remedy}"
                )
        with contextlib.suppress(OSError):
            if path.stem.rpartition("-")[2] == hash_of(path):
                return path
    return None


def matching(folder: Path, name: str) -> list[Path]:
    """Return the files of a name with any hash."""
    stem, suffix = os.path.splitext(name)
    return sorted(folder.glob(f"{stem}-*{suffix}"))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock, and say whether it is held: not on every network's disk, and not if another one hangs.

    The lock ends with the process, however that ends.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        held, until = False, time.monotonic() + PATIENCE
        while not held and time.monotonic() < until:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        yield held
    finally:
        os.close(handle)


def remove_drafts(folder: Path, alone: bool) -> None:
    """Remove what builds that were killed left: all of it where this is the only one, else what is an hour old."""
    for draft in folder.glob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            if alone or time.time() - draft.lstat().st_mtime > 3600:
                shutil.rmtree(draft, ignore_errors=True)
