"""Check that calls in several threads return what they return alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import torch

CALLS = 50  # of each thread


def check_together(*calls: Callable[[], torch.Tensor]) -> None:
    """Check that calls, each repeated in a thread of its own, return what they return alone."""
    expected = [call() for call in calls]
    found: list[str] = []

    def repeat(i: int) -> None:
        for _ in range(CALLS):
            try:
                if not torch.equal(calls[i](), expected[i]):
                    found.append(f"call {i} returned something else")
            except Exception as error:
                found.append(f"call {i} raised {type(error).__name__}: {error}")

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(len(calls))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # The threads take turns often.
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not found, f"{len(found)} of {len(calls) * CALLS} calls, such as: {found[0]}"
