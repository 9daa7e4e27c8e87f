"""Calls to the Hub that end: within how many seconds, and by whom."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

_T = TypeVar("_T")


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """`call()`, or a TimeoutError after so many seconds.

    A thread, because the timeouts of HTTP clients bound neither the look-up of a name nor their own retries. It is a
    daemon: an answer that comes too late is dropped, and it cannot keep the interpreter from ending.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised again below, in the caller's thread
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
    """How many seconds the Hub has for its first answer, under the name that huggingface_hub itself uses."""
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 5)


def library() -> dict[str, Any]:
    try:
        return {"library_name": "action-heads", "library_version": version("action-heads")}
    except PackageNotFoundError:  # run from a source tree that was never installed
        return {"library_name": "action-heads", "library_version": "unknown"}
