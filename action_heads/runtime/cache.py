"""The cache of compiled code. Its files are executed, so only this user may be able to write there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from action_heads._util.machine import cache_home
from action_heads.io.locks import try_lock

T = TypeVar("T")
DRAFT = ".action-heads-build-"
PATIENCE = 60.0  # seconds to wait for another process that builds the same
OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_dir() -> Path:
    """Return the folder ACTION_HEADS_CACHE, or one in the user's cache."""
    try:
        return cache_home()
    except RuntimeError as error:  # a user without a home
        raise OSError(f"no folder for compiled code was found ({error}): set ACTION_HEADS_CACHE to a folder") from None


def private(folder: Path, remedy: str = "set ACTION_HEADS_CACHE to a folder of your own") -> Path:
    """Return a folder in which only this user can write. Create it if it does not exist.

    Raises:
        OSError: it can't be created, or others could change its files. The message has the path and a remedy.
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
    for status in (found, within):  # The owner of a link could point it to another folder.
        check_owner(folder, status, remedy)
    if within.st_mode & OTHERS:
        raise OSError(
            f"others can write to {folder} (mode {stat.S_IMODE(within.st_mode):o}), but its files are executed: "
            f"empty it and use `chmod 700 {shlex.quote(str(folder))}`, or {remedy}"
        )
    for parent in (*folder.absolute().parents, *real.parents):
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise OSError(
                f"everybody can write to {parent} (mode {stat.S_IMODE(mode):o}) and so replace {folder}, but its files "
                f"are executed: use `chmod o-w {shlex.quote(str(parent))}`, or {remedy}"
            )
    return folder


def check_owner(path: Path, status: os.stat_result, remedy: str) -> None:
    """Raise an OSError if a file or folder from which code is run is not this user's."""
    if status.st_uid != os.geteuid():
        raise OSError(
            f"{path} belongs to user {status.st_uid}, you are {os.geteuid()}, and code from there is executed: remove "
            f"it, or {remedy}"
        )


def kept(folder: Path, name: str, build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """Load a file of the cache with `load`. Build it first with `build` if there is none, or it is damaged.

    The file's name is `name` with a hash of its content. A file whose content has another hash, or that does not load,
    is built again. Several processes may do this at the same time.

    Raises:
        OSError: the folder is not private (see `private`), or the file can't be built, or a new file does not load.
    """
    private(folder)
    if (path := sound(folder, name)) is not None and (loaded := attempt(load, path)) is not None:
        return loaded
    with locked(folder) as alone:
        if (path := sound(folder, name)) is not None and (loaded := attempt(load, path)) is not None:
            return loaded  # Another process built it first.
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
    except (OSError, AttributeError):  # It was built on another machine, or lacks expected functions.
        return None


def sound(folder: Path, name: str) -> Path | None:
    """Return a file whose content has the hash in its name. Raise an OSError if others could have written it."""
    for path in matching(folder, name):
        status = path.lstat()
        remedy = f"remove {path}"
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is a link or a folder, but must be a regular file, since it is executed: {remedy}")
        if hasattr(os, "geteuid"):
            check_owner(path, status, remedy)
            if status.st_mode & OTHERS:
                raise OSError(
                    f"others can write to {path} (mode {stat.S_IMODE(status.st_mode):o}), but it is executed: {remedy}"
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
    """Hold the folder's lock and yield whether it was acquired.

    Some network file systems have no locks, and another process may hold it for too long. The lock is released when the
    process ends, even if it is killed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # On Windows a folder can't be opened.
        yield False
        return
    try:
        held, until = False, time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):
            while not (held := try_lock(handle)) and time.monotonic() < until:
                time.sleep(0.05)
        yield held
    finally:
        os.close(handle)


def remove_drafts(folder: Path, alone: bool) -> None:
    """Remove the files of builds that were killed: all of them if no other build runs, else those an hour old."""
    for draft in folder.glob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            if alone or time.time() - draft.lstat().st_mtime > 3600:
                shutil.rmtree(draft, ignore_errors=True)
