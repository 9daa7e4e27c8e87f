"""Calls to the Hub with a time limit."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

_T = TypeVar("_T")


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Return the result of `call()`, or raise a TimeoutError after this many seconds.

    The call runs in a thread, because the timeouts of HTTP clients cover neither name resolution nor their own retries.
    The thread is a daemon, so it does not keep the interpreter alive, and a late answer is dropped.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # Raised again below, in the thread of the caller.
            answers.put((None, error))

    threading.Thread(target=work, name="action-heads-hub", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def patience() -> float:
    """Return the seconds to wait for the Hub's first answer, from the variable that huggingface_hub uses."""
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 5)


def library() -> dict[str, Any]:
    """Return the name and version of this library for requests to the Hub."""
    try:
        return {"library_name": "action-heads", "library_version": version("action-heads")}
    except PackageNotFoundError:  # The package runs from a source tree without being installed.
        return {"library_name": "action-heads", "library_version": "unknown"}
