"""One process at a time: a lock on a folder, held by a process and released by the system when that process ends.

The lock is the operating system's (`flock`, on Windows `msvcrt.locking`) and not the file's existence, so a killed run
leaves nothing that has to be removed by hand. The file itself says who holds it. A network file system takes part as
far as its server does; where it has no locks at all, `held` warns and goes on.
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

_mine: dict[str, int] = {}  # path of a lock file -> the thread that holds it
_open: set[int] = set()  # descriptors of locked files


class InUse(ValueError):
    """Another process writes to this folder: the message names the process and the remedy."""


@contextmanager
def held(folder: str | os.PathLike[str], remedy: str = "give another --out") -> Iterator[None]:
    """Hold a folder, which is made if need be, for this thread alone. It may be held again inside.

    Raises:
        InUse: another process, or another thread, holds it.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        with _locked(folder / NAME, folder, remedy):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()


@contextmanager
def held_beside(path: str | os.PathLike[str], remedy: str = "give another --out") -> Iterator[None]:
    """Hold a file or a folder that does not exist before it is complete: as `held`, by a lock file beside it."""
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
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the text, which others want to read
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
    """Close a locked file in the end, and before that in every child that is forked."""
    process = os.getpid()
    _open.add(descriptor)
    try:
        yield
    finally:
        if os.getpid() == process and descriptor in _open:
            _open.remove(descriptor)
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`: another process may have removed it before it was locked."""
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
            if os.getpid() == process:  # not in a child that was forked inside
                del _mine[key]
                # Removed while it is locked, so that nobody holds a file that is going to vanish.
                if sys.platform == "win32":  # it removes no open file
                    _open.remove(descriptor)
                    os.close(descriptor)
                with suppress(OSError):
                    lock.unlink()


def _take(lock: Path, what: Path, remedy: str) -> int:
    """Open and lock the file. Returns its descriptor."""
    for _ in range(1000):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed again
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
                f"{what} is in use by another run ({_holder(lock)}), which this one would overwrite: "
                f"wait until it has ended, or {remedy}. Nothing has to be deleted by hand"
            )
    raise OSError(errno.EAGAIN, f"could not lock {lock}: others remove it all the time. Try again, or {remedy}")


def _lock_or_warn(descriptor: int, lock: Path, what: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if _lives_here(_read(lock)):
            return False
        warnings.warn(
            f"the file system of {what} has no locks ({error.strerror}), so a second run on another machine would not "
            "be noticed: start one at a time",
            stacklevel=2,
        )
        return True


def _me() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since}


def _holder(lock: Path) -> str:
    """Describe who holds a lock."""
    for _ in range(20):
        if found := _read(lock):
            return f"pid {found.get('pid')} on {found.get('host')}, since {found.get('since')}"
        time.sleep(0.02)  # it was taken just now
    return "its pid is not known"


def _read(lock: Path) -> dict:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives_here(holder: dict) -> bool:
    """Whether the process that wrote the file still runs on this machine, as far as that can be told."""
    pid = holder.get("pid")
    if sys.platform == "win32" or not isinstance(pid, int) or pid < 1 or holder.get("host") != platform.node():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _forget() -> None:
    """In a forked child: a copy of the descriptor would keep the lock for as long as the child lives."""
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()
    _mine.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
