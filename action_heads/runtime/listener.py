"""A listening socket that no peer can close for the others, by connecting too often or by keeping its thread busy."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

PASSING = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR}  # of the connection that was to be accepted
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
GRACE = 1.0  # seconds for goodbyes when the door closes
SHARE, BURST = 0.25, 0.05  # of the processor's time that may go into reading: of all connections; seconds at once


class Guest(socket.socket):
    """An accepted connection. Reading it may take its share of the processor, so that a flood can't starve the rest.

    Robots are far below that: reading 2 MB takes 5 ms. A flood of tiny frames is read slower than it comes.
    """

    door: Door
    address: str

    def enter(self, door: Door, address: str) -> None:
        self.door, self.address = door, address
        self.seen = self.refilled = time.monotonic()
        self.budget, self.used, self.served = BURST, 0.0, False

    def recv(self, *args: Any) -> bytes:
        """Read as any socket does, after a pause if this thread computed more than its share since the last call."""
        now, used = time.monotonic(), time.thread_time()
        rate = SHARE / max(1, len(self.door.guests))
        self.budget = min(BURST, self.budget + rate * (now - self.refilled) - max(0.0, used - self.used))
        self.refilled = now
        if self.budget < 0:
            time.sleep(min(-self.budget / rate, 1.0))
        self.used = time.thread_time()
        return super().recv(*args)

    def close(self) -> None:
        self.door.guests.discard(self)
        super().close()

    def throw_out(self) -> None:
        """End the connection at once, whatever its threads wait for."""
        self.door.guests.discard(self)
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Door(socket.socket):
    """Listens at (host, port) and keeps at most `most` connections.

    When one more comes, one of the address that has the most is closed: one that never had a chunk, if there is any,
    and of these the one that was silent longest. `websockets` stops at the first error of `accept`; here an error of a
    single connection, or a full table of files, passes.
    """

    def __init__(self, host: str, port: int, most: int, closing: Callable[[], None] = lambda: None):
        listening = socket.create_server((host, port))
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self.most, self.closing = most, closing
        self.guests: set[Guest] = set()

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            try:
                accepted, address = super().accept()
            except OSError as error:
                if error.errno in FULL:
                    self.make_room(len(self.guests) - 1)
                    time.sleep(0.05)
                elif error.errno not in PASSING:
                    raise
                continue
            self.make_room(self.most - 1)
            guest = Guest(accepted.family, accepted.type, accepted.proto, accepted.detach())
            guest.enter(self, str(address[0]) if isinstance(address, tuple) else "")
            self.guests.add(guest)
            return guest, address

    def make_room(self, most: int) -> None:
        while len(guests := list(self.guests)) > max(0, most):
            of = Counter(guest.address for guest in guests)
            min(guests, key=lambda guest: (-of[guest.address], guest.served, guest.seen)).throw_out()

    def close(self) -> None:
        """Stop listening; who is not gone after a moment, since it does not read its goodbye, is cut off."""
        super().close()
        self.closing()

        def cut() -> None:
            for guest in list(self.guests):
                guest.throw_out()

        timer = threading.Timer(GRACE, cut)
        timer.daemon = True
        timer.start()
