"""`SecondThread`: a thread beside the control loop that makes one call after the other."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from action_heads.runtime.uncopied import Uncopied

T = TypeVar("T")

PATIENCE = 2.0  # seconds that the end of the program waits for calls that run
_running: weakref.WeakKeyDictionary[threading.Thread, SimpleQueue] = weakref.WeakKeyDictionary()


class Pending(Future[T]):
    """The future of a call in a second thread. A process that was forked since has no such thread: there it is lost."""

    def __init__(self):
        super().__init__()
        self._process = os.getpid()

    @property
    def lost(self) -> bool:
        """True if this process waits for a result that cannot arrive. Don't touch a lost one: its lock may be held."""
        return self._process != os.getpid()


class SecondThread(Uncopied):
    """A thread that makes calls in their order. It starts with the first call, and anew in a forked process.

    It is a daemon, so a call that never returns does not keep the program from ending. It has as many threads for
    torch's operators as the thread that made the first call, and the autocast of the one that makes each call.

    Args:
        name: name of the thread, for debuggers.
    """

    another = "SecondThread(name)"

    def __init__(self, name: str):
        self.name = name
        self._calls: SimpleQueue | None = None
        self._process = 0

    @property
    def running(self) -> bool:
        """True if the thread was started and not closed."""
        return self._calls is not None

    def submit(self, function: Callable[..., T], *arguments: Any) -> Pending[T]:
        """Queue a call, and return its future. A call that has not begun can be cancelled."""
        if self._calls is None or self._process != os.getpid():
            self._calls, self._process = SimpleQueue(), os.getpid()
            given = self._calls, torch.get_num_threads()
            thread = threading.Thread(target=_serve, args=given, name=self.name, daemon=True)
            thread.start()
            _running[thread] = self._calls
            self._end = weakref.finalize(self, self._calls.put, None)
        future: Pending[T] = Pending()
        self._calls.put((future, autocasts(), function, arguments))
        return future

    def close(self) -> None:
        """End the thread after the call that runs. Another call starts a new one."""
        if self._calls is not None:
            self._end()
            self._calls = None


def _serve(calls: SimpleQueue, threads: int) -> None:
    # Without this, torch would take the number that is set at this moment, which `native` lowers while it samples.
    torch.set_num_threads(threads)
    while _serve_one(calls.get()):
        pass


def _serve_one(call: tuple | None) -> bool:
    """Make a call, and return whether there was one. Afterwards nothing keeps its observation or its result alive."""
    if call is None:
        return False
    future, casts, function, arguments = call
    if future.set_running_or_notify_cancel():
        try:
            with autocast_as(casts):
                future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
    return True


def autocasts() -> dict[str, torch.dtype]:
    """Return the dtype of autocast for each kind of device where it is on in this thread."""
    kinds = ("cpu", "cuda")
    return {kind: torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)}


@contextmanager
def autocast_as(dtypes: dict[str, torch.dtype]) -> Iterator[None]:
    """Turn autocast on for these kinds of devices."""
    with ExitStack() as stack:
        for kind, dtype in dtypes.items():
            stack.enter_context(torch.autocast(kind, dtype=dtype))
        yield


@atexit.register
def _wait_for_calls() -> None:
    """Let calls that run end, for a moment, since an operator that outlives the interpreter may crash the program."""
    until = time.monotonic() + PATIENCE
    for thread, calls in list(_running.items()):
        calls.put(None)
        thread.join(max(0.0, until - time.monotonic()))
