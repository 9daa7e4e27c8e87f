"""`RemotePolicy`: the client of `action-heads serve`, which samples as a policy does.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask, parts
from action_heads._util.extras import require
from action_heads.acting import Acts
from action_heads.diffusion.continuing import Continue
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import wire

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


class RemotePolicy(Acts):
    """The client of a policy that `action-heads serve` runs on another machine.

    It samples as a local policy does, for `Executor` or for a loop of your own. Each chunk is checked before it is
    returned: shape, dtype, finite values, and that it answers this request.

    Args:
        url: Address of the server, such as "ws://192.168.1.5:8765".
        timeout: Seconds to wait for the connection and for each chunk, after which a `RemoteTimeout` is raised.

    Raises:
        RemoteError: No compatible policy is served at `url`. `sample` raises it too.

    Examples:
        >>> with RemotePolicy("ws://192.168.1.5:8765") as policy:
        ...     chunk = policy.sample(cond, steps=10)  # (b h a) in robot units
    """

    def __init__(self, url: str, timeout: float = 1.0):
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise ValueError(f"url must begin with ws:// or wss://, such as 'ws://192.168.1.5:8765', got {url!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        require("websockets.sync.client", "serve")
        require("msgpack", "serve")
        self.url, self.timeout = url, timeout
        self.last_ms = 0.0  # milliseconds of the last sampling on the server, without the network
        self.served: dict[str, Any] = {}
        self.connection: Any = None
        self._numbers, self._one_at_a_time = itertools.count(1), threading.Lock()
        self._connect()

    def act(
        self, cond: Condition, sampling: Sampling, continued: Continue, mask: Mask = None, generator: Generator = None
    ) -> Tensor:
        """Sample a chunk (b h a) on the server. `generator` seeds one there: reproducible, but with other numbers."""
        for name, value in (("cond", cond), ("mask", mask), ("previous", continued.previous)):
            check_tensors(name, value)
        seed = (
            None if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
        )
        request: dict[str, Any] = {"cond": cond, "mask": mask, "seed": seed, **vars(sampling), **vars(continued)}
        with self._one_at_a_time:
            self._reconnect()
            number = next(self._numbers)
            message = wire.pack(request | ({"id": number} if self.served.get("echo") is True else {}))
            with self._exchange(f"no chunk within {self.timeout} s"):
                reply = self._ask(message)
                if "error" not in reply or reply.get("id", number) != number:
                    chunk = self._chunk(reply, number, len(parts(cond)[0]))
                    return chunk.to(parts(cond)[0].device)
        raise RemoteRefusal(f"refused by the server: {str(reply['error'])[:1000]}")

    def close(self) -> None:
        """Close the connection. A later `sample` connects again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        """Connect and read the greeting. Both take `timeout` together."""
        connect, began = require("websockets.sync.client", "serve").connect, time.monotonic()
        limits = {"open_timeout": self.timeout, "close_timeout": 0.1, "max_size": wire.LARGEST}
        with self._exchange(f"no greeting within {self.timeout} s"):
            self.connection = connect(self.url, compression=None, **limits)
            served = wire.unpack(self.connection.recv(max(0.0, self.timeout - (time.monotonic() - began))))
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

    def _reconnect(self) -> None:
        """Connect again after an error, or if the server closed the connection since the last call."""
        closed = require("websockets.exceptions", "serve").ConnectionClosed
        if self.connection is not None:
            with self._exchange("no answer"), contextlib.suppress(TimeoutError):
                try:
                    self.connection.recv(0)
                except closed:
                    self.connection = None
                else:
                    raise RemoteError(
                        f"{self.url} sent an unexpected message; the connection was closed. The next call reconnects."
                    )
        if self.connection is None:
            self._connect()

    def _ask(self, message: bytes) -> dict[str, Any]:
        """Send a request and return its answer, both within `timeout`."""
        began, connection = time.monotonic(), self.connection
        # If the server does not read, sending would block forever, and `websockets` has no timeout for it.
        stop = threading.Timer(self.timeout, cut, [connection])
        stop.daemon = True
        stop.start()
        try:
            connection.send(message)
        except Exception:
            if time.monotonic() - began >= self.timeout:
                raise TimeoutError from None
            raise
        finally:
            stop.cancel()
        return wire.unpack(connection.recv(max(0.0, self.timeout - (time.monotonic() - began))))

    def _chunk(self, reply: dict[str, Any], number: int, rows: int) -> Tensor:
        """Return the chunk (b h a) of an answer; raise a RemoteError unless a robot can execute it."""
        if self.served.get("echo") is True and reply.get("id") != number:
            raise RemoteError(f"{self.url} answered request {str(reply.get('id'))[:40]}, not {number}")
        chunk, ms = reply.get("chunk"), reply.get("ms")
        expected = (rows, self.served["horizon"], self.served["action_dim"])
        if not isinstance(chunk, Tensor) or chunk.dtype != torch.float32 or tuple(chunk.shape) != expected:
            what = f"{chunk.dtype} {tuple(chunk.shape)}" if isinstance(chunk, Tensor) else f"a {type(chunk).__name__}"
            raise RemoteError(
                f"{self.url} answered with {what}; expected a chunk, float32 {expected}. Update both ends."
            )
        if not chunk.isfinite().all():
            raise RemoteError(f"{self.url} answered with NaN or infinite values. Check the observation and the policy.")
        self.last_ms = float(ms) if isinstance(ms, int | float) else math.nan
        return chunk

    @contextlib.contextmanager
    def _exchange(self, late: str) -> Iterator[None]:
        """Close the connection on any error in the context, so that a late answer can't be taken for another one."""
        try:
            yield
        except BaseException as error:
            connection, self.connection = self.connection, None
            if connection is not None:
                cut(connection)
                connection.close()
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


def cut(connection: Any) -> None:
    """End a connection at once, even if a thread waits for it."""
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def check_tensors(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is a tensor or a dict of tensors. Only `cond` must not be None."""
    if value is None and name != "cond":
        return
    found = parts(value)
    if not found:
        raise ValueError(f"{name} is an empty dict. Pass a dict of tensors with the names of the adapter's sources.")
    for part in found:
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{name} must be a torch tensor, got a {type(part).__name__}. Convert it with torch.as_tensor({name}), "
                "and floats to torch.float32."
            )
        if part.ndim == 0 or 0 in part.shape:
            raise ValueError(f"{name} has shape {tuple(part.shape)}. It needs a batch axis, and no axis may be empty.")
