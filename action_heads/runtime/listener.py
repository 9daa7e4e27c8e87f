"""A listening socket that keeps serving when a peer connects too often or sends too much."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

PASSING = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR}  # These concern only the connection being accepted.
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
GRACE = 1.0  # seconds for goodbyes when the listener closes
SHARE, BURST = 0.25, 0.05  # share of processor time that all connections may spend reading; seconds of one burst


class Connection(socket.socket):
    """An accepted connection whose reads are limited to a share of processor time, so a flood can't starve others.

    Robots stay far below the limit: reading 2 MB takes 5 ms. A flood of tiny frames is read more slowly than it comes.
    """

    listener: Listener
    address: str

    def enter(self, listener: Listener, address: str) -> None:
        self.listener, self.address = listener, address
        self.seen = self.refilled = time.monotonic()
        self.budget, self.used, self.served = BURST, 0.0, False

    def recv(self, *args: Any) -> bytes:
        """Read from the socket. Pause first if this thread used more than its share of processor time."""
        now, used = time.monotonic(), time.thread_time()
        rate = SHARE / max(1, len(self.listener.connections))
        self.budget = min(BURST, self.budget + rate * (now - self.refilled) - max(0.0, used - self.used))
        self.refilled = now
        if self.budget < 0:
            time.sleep(min(-self.budget / rate, 1.0))
        self.used = time.thread_time()
        return super().recv(*args)

    def close(self) -> None:
        self.listener.connections.discard(self)
        super().close()

    def throw_out(self) -> None:
        """End the connection at once, even if a thread waits for it."""
        self.listener.connections.discard(self)
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Listener(socket.socket):
    """A socket that listens at (host, port) and keeps at most `most` connections.

    One connection more closes another, of the address with the most connections. Connections that never got a chunk
    are closed first, and of these the one that was silent longest. `websockets` would stop at the first error of
    `accept`; this class ignores errors of a single connection and a full table of files.
    """

    def __init__(self, host: str, port: int, most: int, closing: Callable[[], None] = lambda: None):
        try:
            listening = socket.create_server((host, port))
        except OSError as error:  # the port is taken or reserved, or the host is not this machine
            raise ValueError(f"can't listen at {host}:{port} ({error}). Choose another --host or --port") from error
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self.most, self.closing = most, closing
        self.connections: set[Connection] = set()

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            try:
                accepted, address = super().accept()
            except OSError as error:
                if error.errno in FULL:
                    self.make_room(len(self.connections) - 1)
                    time.sleep(0.05)
                elif error.errno not in PASSING:
                    raise
                continue
            self.make_room(self.most - 1)
            connection = Connection(accepted.family, accepted.type, accepted.proto, accepted.detach())
            connection.enter(self, str(address[0]) if isinstance(address, tuple) else "")
            self.connections.add(connection)
            return connection, address

    def make_room(self, most: int) -> None:
        while len(connections := list(self.connections)) > max(0, most):
            of = Counter(connection.address for connection in connections)
            min(connections, key=lambda one: (-of[one.address], one.served, one.seen)).throw_out()

    def close(self) -> None:
        """Stop listening. Connections that are still open after GRACE seconds are cut off."""
        super().close()
        self.closing()

        def cut() -> None:
            for connection in list(self.connections):
                connection.throw_out()

        timer = threading.Timer(GRACE, cut)
        timer.daemon = True
        timer.start()
