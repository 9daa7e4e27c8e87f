"""Ctrl-C, or a scheduler's SIGTERM, as a wish to stop at the end of a step rather than in the middle of one."""

from __future__ import annotations

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`asked` turns true at the first signal. A second Ctrl-C interrupts at once, as usual, if `insist` is true.

    With several processes it should be false: their launcher passes on a Ctrl-C that they have already had.
    """

    def __init__(self, insist: bool = True):
        self.asked, self.insist = False, insist

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread handle signals; elsewhere they stay what they were.
        self.handles = threading.current_thread() is threading.main_thread()
        if self.handles:
            self.previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        if self.handles:
            for number, handler in self.previous.items():
                signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        if self.asked and self.insist and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
