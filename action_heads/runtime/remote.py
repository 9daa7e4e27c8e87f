"""`RemotePolicy`: the client of `action-heads serve`, which samples as a policy does.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask, parts
from action_heads._util.extras import require
from action_heads.acting import Acts
from action_heads.diffusion.continuing import Continue
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import wire
from action_heads.runtime.uncopied import Uncopied
from action_heads.runtime.waiting import LATE, Ages, StaleEmbedding, check_waiting

T = TypeVar("T")

POLL = 0.005  # seconds until a missing embedding is asked for again
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


class RemotePolicy(Uncopied, Acts):
    """The client of a policy that `action-heads serve` runs on another machine.

    It samples as a local policy does, for `Executor` or for a loop of your own. Each chunk is checked before it is
    returned: shape, dtype, finite values, and that it answers this request.

    Args:
        url: Address of the server, such as "ws://192.168.1.5:8765".
        timeout: Seconds to wait for the connection and for each chunk, after which a `RemoteTimeout` is raised.
        stream: Name under which the server keeps embeddings, for a slow encoder such as a VLM. `sample` is then given
            the other sources alone, such as {"state": state}. The embedding comes from `keep`, called by any process
            with the same stream, or the server makes it of what is passed to `observe`.
        max_age: Largest age in seconds of the embedding that a chunk is made from; None for any.
        late: What `sample` does without such an embedding: "raise" a `RemoteStale`, or "wait" for one until `timeout`
            and raise then.

    Raises:
        RemoteError: No compatible policy is served at `url`. `sample` raises it too.

    Examples:
        >>> with RemotePolicy("ws://192.168.1.5:8765") as policy:
        ...     chunk = policy.sample(cond, steps=10)  # (b h a) in robot units

        A VLM in another process gives its embeddings to a stream, and the robot sends its state in every tick:

        ```python
        vlm = RemotePolicy("ws://192.168.1.5:8765", stream="arm")
        vlm.keep({"tokens": tokens}, mask={"tokens": mask}, age=0.2)

        robot = RemotePolicy("ws://192.168.1.5:8765", stream="arm", max_age=1.0)
        chunk = robot.sample({"state": state})
        ```
    """

    holds, another = "a connection", "RemotePolicy(url, ...)"

    def __init__(
        self,
        url: str,
        timeout: float = 1.0,
        *,
        stream: str | None = None,
        max_age: float | None = None,
        late: str = "raise",
    ):
        if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
            raise ValueError(f"url must begin with ws:// or wss://, such as 'ws://192.168.1.5:8765', got {url!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        if stream is not None and not isinstance(stream, str):
            raise ValueError(f"stream must be a name such as 'arm', got {stream!r}")
        if max_age is not None and (stream is None or not 0 <= max_age < math.inf):
            raise ValueError(f"max_age must be a number of seconds, 0 or more, and needs stream=; got {max_age!r}")
        check_waiting(late, LATE, timeout)
        require("websockets.sync.client", "serve")
        require("msgpack", "serve")
        self.url, self.timeout = url, timeout
        self.stream, self.max_age, self.late = stream, max_age, late
        self.seconds = Ages(bin=0.01)  # how old the embedding of each chunk was when the server took it
        self.last_ms = 0.0  # milliseconds of the last sampling on the server, without the network
        self.served: dict[str, Any] = {}
        self.connection: Any = None
        self._numbers, self._one_at_a_time, self._process = itertools.count(1), threading.Lock(), os.getpid()
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
        request |= {} if self.stream is None else {"stream": self.stream, "max_age": self.max_age}
        first, until = parts(cond)[0], time.monotonic() + self.timeout
        read = partial(self._chunk, rows=len(first))
        while True:
            try:
                return self._request(request, read).to(first.device)
            except RemoteStale:
                if self.late == "raise" or time.monotonic() >= until:
                    raise
                time.sleep(POLL)

    def keep(self, cond: Mapping[str, Tensor], mask: Mask = None, age: float = 0.0) -> None:
        """Give the stream a new embedding, which chunks are made from until the next.

        Args:
            cond: Some of the adapter's sources, by name.
            mask: Their masks, by name.
            age: Seconds since the observation that was embedded.
        """
        for name, value in (("cond", cond), ("mask", mask)):
            check_tensors(name, value)
        self._stream(keep=cond, mask=mask, age=float(age))

    def observe(self, observation: Mapping[str, Any]) -> bool:
        """Send the server an observation to embed in the background, such as images and texts by name.

        Returns:
            False if the server still embeds an earlier one, so that this one was dropped.

        Raises:
            RemoteRefusal: The server was started without an encoder.
        """
        return self._stream(observe=observation)

    def reset(self) -> None:
        """Forget the stream's embedding and one that is being made. Call it when a new episode begins."""
        self._stream(forget=True)

    def _stream(self, **asked: Any) -> bool:
        if self.stream is None:
            raise ValueError("this RemotePolicy has no stream: pass a name, such as stream='arm'")
        return self._request({"stream": self.stream, **asked}, self._kept)

    def _request(self, request: dict[str, Any], read: Callable[[dict[str, Any], int], T]) -> T:
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
        """Close the connection. A later `sample` connects again."""
        self._leave_to_parent()
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

    def _leave_to_parent(self) -> None:
        """Forget the connection in a forked process, which would take the answers to its parent's requests."""
        if os.getpid() == self._process:
            return
        self._process, self._one_at_a_time = os.getpid(), threading.Lock()  # The copy may be locked for ever.
        connection, self.connection = self.connection, None
        if connection is not None:
            os.close(connection.socket.detach())  # A proper end would close the parent's connection too.

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
        self._check_number(reply, number)
        chunk, ms = reply.get("chunk"), reply.get("ms")
        expected = (rows, self.served["horizon"], self.served["action_dim"])
        if not isinstance(chunk, Tensor) or chunk.dtype != torch.float32 or tuple(chunk.shape) != expected:
            what = f"{chunk.dtype} {tuple(chunk.shape)}" if isinstance(chunk, Tensor) else f"a {type(chunk).__name__}"
            raise RemoteError(
                f"{self.url} answered with {what}; expected a chunk, float32 {expected}. Update both ends."
            )
        if not chunk.isfinite().all():
            raise RemoteError(f"{self.url} answered with NaN or infinite values. Check the observation and the policy.")
        if self.stream is not None:
            age = reply.get("age")
            if not isinstance(age, int | float) or not 0 <= age < math.inf:
                raise RemoteError(f"{self.url} answered with age {str(age)[:40]} of its embedding, in place of seconds")
            self.seconds.add(age)
        self.last_ms = float(ms) if isinstance(ms, int | float) else math.nan
        return chunk

    def _kept(self, reply: dict[str, Any], number: int) -> bool:
        """Return whether the server took what was given to its stream."""
        self._check_number(reply, number)
        if not isinstance(reply.get("kept"), bool):
            raise RemoteError(f"{self.url} answered with {', '.join(map(str, reply))[:40]} in place of kept")
        return reply["kept"]

    def _check_number(self, reply: dict[str, Any], number: int) -> None:
        if self.served.get("echo") is True and reply.get("id") != number:
            raise RemoteError(f"{self.url} answered request {str(reply.get('id'))[:40]}, not {number}")

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
