"""The connection of a `RemotePolicy` to its server, and the errors of both."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from action_heads._util.extras import require
from action_heads.runtime import wire
from action_heads.runtime.waiting import StaleEmbedding

T = TypeVar("T")

SERVED = ("head", "fingerprint", "horizon", "action_dim", "cond_dim")  # must stay the same when the client reconnects


class RemoteError(ConnectionError):
    """An error of the server or the connection, after which no chunk of this request can arrive.

    There is no server, it is late (`RemoteTimeout`), it refuses the request (`RemoteRefusal`), it closed the
    connection, it uses another version of the protocol, or its answer is not a valid chunk. The next call connects
    again.
    """


class RemoteTimeout(RemoteError, TimeoutError):
    """The server did not answer within `timeout`."""


class RemoteRefusal(RemoteError, ValueError):
    """The server refused a request, which must change. The connection stays open."""


class RemoteStale(RemoteRefusal, StaleEmbedding):
    """The stream has no embedding yet, or its newest one is older than `max_age`. The connection stays open."""


class Connection:
    """A connection that is closed at any error and made again at the next request.

    Attributes:
        url: address of the server.
        timeout: seconds to wait for the connection and for each answer.
        served: the server's greeting, which describes its policy.
        websocket: the open connection, or None.
    """

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout = url, timeout
        self.served: dict[str, Any] = {}
        self.websocket: Any = None
        self._numbers, self._one_at_a_time, self._process = itertools.count(1), threading.Lock(), os.getpid()
        self._connect()

    def request(self, request: dict[str, Any], read: Callable[[dict[str, Any], int], T]) -> T:
        """Send a request, and return what `read` makes of its answer and number."""
        self._leave_to_parent()
        with self._one_at_a_time:
            self._reconnect()
            if "stream" in request and self.served.get("streams") is not True:
                raise RemoteError(f"the server at {self.url} is of a release without streams: update it")
            number = next(self._numbers)
            message = wire.pack(request | ({"id": number} if self.served.get("echo") is True else {}))
            with self._exchange(f"no chunk within {self.timeout} s"):
                reply = self._ask(message)
                if "error" not in reply or reply.get("id", number) != number:
                    return read(reply, number)
        refused = RemoteStale if reply.get("stale") is True else RemoteRefusal
        raise refused(f"refused by the server: {str(reply['error'])[:1000]}")

    def close(self) -> None:
        """Close the connection. A later request connects again."""
        self._leave_to_parent()
        websocket, self.websocket = self.websocket, None
        if websocket is not None:
            websocket.close()

    def _connect(self) -> None:
        """Connect and read the greeting. Both take `timeout` together."""
        connect, began = require("websockets.sync.client", "serve").connect, time.monotonic()
        limits = {"open_timeout": self.timeout, "close_timeout": 0.1, "max_size": wire.LARGEST}
        with self._exchange(f"no greeting within {self.timeout} s"):
            self.websocket = connect(self.url, compression=None, **limits)
            served = wire.unpack(self.websocket.recv(max(0.0, self.timeout - (time.monotonic() - began))))
            if (version := served.get("protocol")) != wire.PROTOCOL:
                raise RemoteError(
                    f"{self.url} uses version {str(version)[:40]} of the protocol, but this client uses "
                    f"{wire.PROTOCOL}. Install the same release of action-heads on both."
                )
            for name in ("horizon", "action_dim"):
                if type(served.get(name)) is not int or served[name] < 1:
                    raise RemoteError(
                        f"The greeting of {self.url} has {name}={repr(served.get(name))[:40]}, expected an integer of "
                        "at least 1. Check that `action-heads serve` runs there."
                    )
            if changed := [name for name in SERVED if self.served and served.get(name) != self.served.get(name)]:
                raise RemoteError(
                    f"{self.url} serves another policy than before ({', '.join(changed)} changed). Stop the robot, "
                    "then create a new RemotePolicy."
                )
            self.served = served

    def _leave_to_parent(self) -> None:
        """Forget the connection in a forked process, which would take the answers to its parent's requests."""
        if os.getpid() == self._process:
            return
        self._process, self._one_at_a_time = os.getpid(), threading.Lock()  # The copy may be locked for ever.
        websocket, self.websocket = self.websocket, None
        if websocket is not None:
            os.close(websocket.socket.detach())  # A proper end would close the parent's connection too.

    def _reconnect(self) -> None:
        """Connect again after an error, or if the server closed the connection since the last call."""
        closed = require("websockets.exceptions", "serve").ConnectionClosed
        if self.websocket is not None:
            with self._exchange("no answer"), contextlib.suppress(TimeoutError):
                try:
                    self.websocket.recv(0)
                except closed:
                    self.websocket = None
                else:
                    raise RemoteError(
                        f"{self.url} sent an unexpected message; the connection was closed. The next call reconnects."
                    )
        if self.websocket is None:
            self._connect()

    def _ask(self, message: bytes) -> dict[str, Any]:
        """Send a request and return its answer, both within `timeout`."""
        began, websocket = time.monotonic(), self.websocket
        # If the server does not read, sending would block forever, and `websockets` has no timeout for it.
        stop = threading.Timer(self.timeout, cut, [websocket])
        stop.daemon = True
        stop.start()
        try:
            websocket.send(message)
        except Exception:
            if time.monotonic() - began >= self.timeout:
                raise TimeoutError from None
            raise
        finally:
            stop.cancel()
        return wire.unpack(websocket.recv(max(0.0, self.timeout - (time.monotonic() - began))))

    @contextlib.contextmanager
    def _exchange(self, late: str) -> Iterator[None]:
        """Close the connection on any error in the context, so that a late answer can't be taken for another one."""
        try:
            yield
        except BaseException as error:
            websocket, self.websocket = self.websocket, None
            if websocket is not None:
                cut(websocket)
                websocket.close()
            if isinstance(error, RemoteError) or not isinstance(error, Exception):
                raise
            raise self._explained(error, late) from error

    def _explained(self, error: Exception, late: str) -> RemoteError:
        exceptions = require("websockets.exceptions", "serve")
        if isinstance(error, TimeoutError):
            return RemoteTimeout(f"{self.url}: {late}. Check whether the server is busy, or pass a longer timeout.")
        if isinstance(error, wire.WireError):
            return RemoteError(
                f"{self.url} sent an invalid message: {error}. Check that `action-heads serve` runs there."
            )
        if isinstance(error, exceptions.ConnectionClosed):
            return RemoteError(
                f"{self.url} closed the connection ({error}). Check the server's output; the next call reconnects."
            )
        if isinstance(error, exceptions.WebSocketException | ValueError):
            return RemoteError(
                f"{self.url} is not a policy server ({error}). Check the address and port; start `action-heads serve`."
            )
        if isinstance(error, OSError):
            return RemoteError(
                f"no server at {self.url} ({error}): start `action-heads serve`, and check the address and port"
            )
        return RemoteError(f"{self.url}: {type(error).__name__}: {error}. The next call reconnects.")


def cut(websocket: Any) -> None:
    """End a connection at once, even if a thread waits for it."""
    with contextlib.suppress(OSError):
        websocket.socket.shutdown(socket.SHUT_RDWR)
