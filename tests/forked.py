"""Helpers that run code in forked processes, return their errors as text, and kill them."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
KILLED = 77  # exit status of a process that ended as if killed


def fork() -> int:
    """Fork with one thread in the child, since it would wait for OpenMP's other threads, which do not follow."""
    if (pid := os.fork()) == 0:
        torch.set_num_threads(1)
    return pid


def outcome(act: Callable[[], object]) -> str:
    """Run `act` in another process, and return "done" or the `repr` of its error."""
    return outcomes(act, 1)[0]


def outcomes(act: Callable[[], object], count: int) -> list[str]:
    """Run `act` in several processes at once, and return the outcome of each."""
    return [_said(*child) for child in [_started(act) for _ in range(count)]]


def _started(act: Callable[[], object]) -> tuple[int, int]:
    read, write = os.pipe()
    if (pid := fork()) == 0:
        try:
            act()
            os.write(write, b"done")
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def _said(pid: int, read: int) -> str:
    with os.fdopen(read, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said


def command(act: Callable[[], object], said: Path) -> int:
    """Start `act` in another process, as a command that prints to a file, and return the process id."""
    if pid := fork():
        return pid
    code = 1
    with said.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            act()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
    os._exit(code)


@contextmanager
def inside(context: Callable[[], object]):
    """Keep another process inside a context until the end of the `with` block, which kills it.

    It has a child that was forked inside the context and outlives it by a second.
    """
    read, write = os.pipe()
    if (pid := fork()) == 0:
        try:
            with context():  # type: ignore[attr-defined]
                if os.fork() == 0:
                    os.write(write, b"in")  # By now it has released its locks.
                    time.sleep(1)
                    os._exit(0)
                signal.pause()
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 2) == b"in"
    os.close(read)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def as_nobody(act: Callable[[], object]) -> Callable[[], object]:
    """Return `act` to be run by a user for whom file permissions count."""

    def run() -> object:
        if os.geteuid() == 0:
            os.setuid(65534)
        return act()

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def done_before(call: int, act: Callable[[], object]) -> bool:
    """Run `act` in a process that ends at its `call`-th change of the disk, and return whether `act` ended first."""
    if pid := fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, KILLED), f"status {status}"
        return status == 0
    left = call

    def counted(change: Callable) -> Callable:
        def changed(*args, **options):
            nonlocal left
            left -= 1
            return change(*args, **options) if left else os._exit(KILLED)

        return changed

    for name in ("mkdir", "open", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        act()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
