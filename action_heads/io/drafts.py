"""Drafts: files and folders that are written next to their target and then renamed to it.

A draft is named `.<name>.<8 hex digits>.tmp`. It is a file, or a folder if another library writes to it. Its process
holds a lock on it, so a draft that can be locked was left by a process that has ended, and `sweep` removes it. A
process may also be killed after it has renamed the result, so a caller that writes only what is missing asks `exists`.
Such drafts stay on a file system without locks.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from action_heads.io import locks

PATTERN = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def written(path: Path, data: bytes) -> Iterator[Path]:
    """Write a file's content to a draft next to it and flush it to the disk. The caller renames the draft."""
    draft, descriptor = _opened(path)
    try:
        with locks.closing(descriptor):
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            if sys.platform != "win32":
                yield draft  # The open file keeps the lock.
        if sys.platform == "win32":  # Windows does not rename open files.
            yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def drafted(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path where another library may write a file or folder, and rename the result to `path` at the end.

    The path has the same name and lies in a folder of its own, so that other files written next to it are removed too.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, [glob.escape(path.name)])
    room = _name(path)
    try:
        with ExitStack() as stack:
            with writing(path):
                stack.enter_context(locks.held(room))
            stack.callback(_empty, room)
            with writing(path, NO_ROOM):
                yield room / path.name
            with writing(path):
                os.replace(room / path.name, path)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether a path exists, and remove drafts for it that ended processes have left."""
    path = Path(path)
    sweep(path.parent, [glob.escape(path.name)])
    return path.exists()


def sweep(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Remove drafts for these names that ended processes have left. The names may contain wildcards."""
    names = list(names)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            match = PATTERN.fullmatch(entry.name)
            if match and any(fnmatch.fnmatchcase(match[1], name) for name in names) and not entry.is_symlink():
                with suppress(OSError):  # Another process was faster, or the file system has no locks.
                    _remove(Path(entry.path), entry.is_dir())


@contextmanager
def writing(path: Path, kinds: Iterable[int] | None = None, stays: str = "") -> Iterator[None]:
    """Turn errors of the file system into ones that name the file and the remedy.

    Args:
        path: the file that is written.
        kinds: the `errno`s of the errors that are turned; all if None.
        stays: what the error says of the files on the disk; that this one is unchanged by default.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (kinds is not None and error.errno not in kinds):
            raise
        remedy = "Fix this and try again"
        if error.errno in NO_ROOM:
            remedy = "Free some space, or raise the limit (quota, ulimit -f), and try again"
        elif error.errno in NOT_ALLOWED:
            remedy = "Make its folder writable, or choose another one"
        what = os.strerror(error.errno)
        says = f"could not write {path}: {what}. {stays or f'{path.name} is unchanged'}. {remedy}"
        raise OSError(error.errno, says) from error


def _name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _opened(path: Path) -> tuple[Path, int]:
    """Create a draft, and return its path and its open, locked file descriptor."""
    while True:
        draft = _name(path)
        # Files of `tempfile` are readable only by their owner, and a head in a shared folder would stay so.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with suppress(OSError):  # The file system has no locks.
            locks.try_lock(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if locks.is_at(descriptor, draft):  # Otherwise it was swept before it was locked.
            return draft, descriptor
        os.close(descriptor)


def _remove(draft: Path, is_folder: bool) -> None:
    lock = draft / locks.NAME if is_folder else draft
    if is_folder and not lock.exists():
        draft.rmdir()  # Its process ended before it was locked. A folder with content is not a draft of ours.
        return
    descriptor = os.open(lock, os.O_RDWR)
    try:
        if not locks.try_lock(descriptor):
            return
        if sys.platform != "win32":
            _delete(draft, is_folder)
    finally:
        os.close(descriptor)
    if sys.platform == "win32":  # Windows does not remove open files.
        _delete(draft, is_folder)


def _empty(room: Path) -> None:
    """Remove all in a draft's folder but its lock, which tells that the folder is a draft."""
    with suppress(OSError), os.scandir(room) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != locks.NAME:
                with suppress(OSError):
                    os.unlink(entry.path)


def _delete(draft: Path, is_folder: bool) -> None:
    if is_folder:
        _empty(draft)
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
