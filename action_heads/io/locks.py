"""Locks on folders, which let one process at a time write to them.

The lock is one of the operating system (`flock`, on Windows `msvcrt.locking`), which releases it when the process ends.
A killed run therefore leaves nothing to remove by hand. The lock file names the process that holds the lock. On a
network file system, locks work as far as its server supports them. On a file system without locks, `held` warns and
continues.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".running"
BUSY = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}

_mine: dict[str, int] = {}  # By path of a lock file: the thread that holds it.
_open: set[int] = set()  # Descriptors of locked files.


class InUse(ValueError):
    """An error about a folder that another process writes to. It names the process and the remedy."""


@contextmanager
def held(folder: str | os.PathLike[str], remedy: str = "give another --out") -> Iterator[None]:
    """Lock a folder for this thread, and create it if it does not exist. The thread may lock it again inside.

    Raises:
        InUse: another process, or another thread, holds the lock.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        with _locked(folder / NAME, folder, remedy):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # The folder may have content by now.
                folder.rmdir()


@contextmanager
def held_beside(path: str | os.PathLike[str], remedy: str = "give another --out") -> Iterator[None]:
    """Lock a path that does not exist before it is complete, as `held` does, by a lock file next to it."""
    path = Path(path)
    with _locked(path.with_name(f".{path.name}{NAME}"), path, remedy):
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file, or return False if another process has locked it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # Far behind the text, which others may read.
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            return False
        raise
    return True


@contextmanager
def closing(descriptor: int) -> Iterator[None]:
    """Close a locked file on exit, and in every process forked before that."""
    process = os.getpid()
    _open.add(descriptor)
    try:
        yield
    finally:
        if os.getpid() == process and descriptor in _open:
            _open.remove(descriptor)
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at `path`, which another process may have removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _locked(lock: Path, what: Path, remedy: str) -> Iterator[None]:
    key, thread, process = os.path.realpath(lock), threading.get_ident(), os.getpid()
    if _mine.get(key) == thread:
        yield
        return
    descriptor = _take(lock, what, remedy)
    _mine[key] = thread
    with closing(descriptor):
        try:
            yield
        finally:
            if os.getpid() == process:  # Not in a child process that was forked inside.
                del _mine[key]
                # The file is removed while it is locked, so that no other process locks a file that is about to vanish.
                if sys.platform == "win32":  # Windows does not remove open files.
                    _open.remove(descriptor)
                    os.close(descriptor)
                with suppress(OSError):
                    lock.unlink()


def _take(lock: Path, what: Path, remedy: str) -> int:
    """Open and lock the lock file, and return its descriptor."""
    for _ in range(1000):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # The folder was removed again.
            continue
        except OSError as error:
            raise OSError(
                error.errno, f"could not write to {lock.parent}: {error.strerror}. Make it writable, or {remedy}"
            ) from error
        try:
            ours = _lock_or_warn(descriptor, lock, what)
            if ours and is_at(descriptor, lock):
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps(_me()).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not ours:
            raise InUse(
                f"{what} is in use by another run ({_holder(lock)}), whose files this one would overwrite. "
                f"Wait until it has ended, or {remedy}. No file has to be deleted by hand."
            )
    raise OSError(errno.EAGAIN, f"could not lock {lock}: other processes keep removing it. Try again, or {remedy}")


def _lock_or_warn(descriptor: int, lock: Path, what: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if _lives_here(_read(lock), lock):
            return False
        warnings.warn(
            f"the file system of {what} has no locks ({error.strerror}), so a second run on another machine cannot be "
            "detected. Start one run at a time.",
            stacklevel=2,
        )
        return True


def _me() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since}


def _holder(lock: Path) -> str:
    """Describe the process that holds a lock."""
    for _ in range(20):
        if found := _read(lock):
            return f"pid {found.get('pid')} on {found.get('host')}, since {found.get('since')}"
        time.sleep(0.02)  # The lock may have been taken just now.
    return "its pid is not known"


def _read(lock: Path) -> dict:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives_here(holder: dict, lock: Path) -> bool:
    """Return whether the process that wrote the lock file seems to run on this machine.

    A container that was killed and started again often has the same host name and gives the same process id, so a lock
    file with this process's id counts only if this process holds the lock.
    """
    pid = holder.get("pid")
    if sys.platform == "win32" or not isinstance(pid, int) or pid < 1 or holder.get("host") != platform.node():
        return False
    if pid == os.getpid():
        return os.path.realpath(lock) in _mine
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _forget() -> None:
    """Close locked files in a forked child, whose copies of the descriptors would keep the locks."""
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()
    _mine.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
