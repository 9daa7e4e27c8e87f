"""`RemotePolicy`: the client of `action-heads serve`, which samples as a policy does.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask, parts
from action_heads._util.extras import require
from action_heads.acting import Acts
from action_heads.diffusion.continuing import Continue
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime.connection import Connection, RemoteError, RemoteRefusal, RemoteStale, RemoteTimeout
from action_heads.runtime.uncopied import Uncopied
from action_heads.runtime.waiting import LATE, Ages, check_waiting

__all__ = ["RemoteError", "RemotePolicy", "RemoteRefusal", "RemoteStale", "RemoteTimeout"]

POLL = 0.005  # seconds until a missing embedding is asked for again


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
        self.url = url
        self.stream, self.max_age, self.late = stream, max_age, late
        self.seconds = Ages(bin=0.01)  # how old the embedding of each chunk was when the server took it
        self.last_ms = 0.0  # milliseconds of the last sampling on the server, without the network
        self._server = Connection(url, timeout)

    @property
    def timeout(self) -> float:
        """Seconds to wait for the connection and for each chunk."""
        return self._server.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._server.timeout = seconds

    @property
    def served(self) -> dict[str, Any]:
        """The server's greeting, which describes its policy."""
        return self._server.served

    @property
    def connection(self) -> Any:
        """The open connection, or None."""
        return self._server.websocket

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
                return self._server.request(request, read).to(first.device)
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
        return self._server.request({"stream": self.stream, **asked}, self._kept)

    def close(self) -> None:
        """Close the connection. A later `sample` connects again."""
        self._server.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
