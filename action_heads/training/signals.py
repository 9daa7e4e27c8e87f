"""Handling of Ctrl-C and SIGTERM: a run stops at the end of a training step rather than in the middle of one."""

from __future__ import annotations

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the first signal sets `asked` instead of interrupting.

    A second Ctrl-C interrupts at once if `insist` is true. Set it to false with several processes: their launcher
    passes on a Ctrl-C that they have received already.
    """

    def __init__(self, insist: bool):
        self.asked, self.insist = False, insist

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread handle signals. Other threads leave the handlers unchanged.
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
