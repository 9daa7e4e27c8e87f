"""`RemotePolicy`: the client of `action-heads serve`, which samples as a policy does.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from action_heads.conditions import Condition, Mask, parts
from action_heads.extras import require
from action_heads.runtime import wire


class RemotePolicy:
    """A policy at `url`, such as "ws://192.168.1.5:8765": for `Executor`, or for a loop of your own.

    Args:
        timeout: seconds to wait for the connection, and, once a request is sent, for its chunk. Then a TimeoutError: a
            robot must not wait on.
    """

    def __init__(self, url: str, timeout: float = 1.0):
        client = require("websockets.sync.client", "serve")
        self.timeout = timeout
        limits = {"open_timeout": timeout, "close_timeout": 0.1, "max_size": wire.LARGEST}
        self.connection = client.connect(url, compression=None, **limits)
        self.served = wire.unpack(self.connection.recv(timeout))
        if (version := self.served.get("protocol")) != wire.PROTOCOL:
            self.close()
            raise wire.WireError(f"{url} speaks version {version}, this is {wire.PROTOCOL}: install the same on both")
        self.last_ms = 0.0  # what sampling took there, without the way

    def sample(
        self,
        cond: Condition,
        *,
        mask: Mask = None,
        steps: int | None = None,
        sampler: str = "ddim",
        spacing: str = "trailing",
        generator: torch.Generator | None = None,
        previous: Tensor | None = None,
        committed: int | None = None,
        start: float | None = None,
    ) -> Tensor:
        """As `ConditionedHead.sample`. A generator here seeds one there: reproducible, but other numbers."""
        seed = (
            None if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
        )
        request: dict[str, Any] = {"cond": cond, "mask": mask, "previous": previous, "committed": committed}
        request |= {"steps": steps, "sampler": sampler, "spacing": spacing, "start": start, "seed": seed}
        message = wire.pack(request)
        try:
            self.connection.send(message)
            reply = wire.unpack(self.connection.recv(self.timeout))
        except BaseException as error:
            self.close()  # or the late chunk would be taken for the answer to the next request
            if isinstance(error, TimeoutError):
                late = f"no chunk within {self.timeout} s: connect again, or allow for a longer timeout"
                raise TimeoutError(late) from None
            raise
        if "error" in reply:
            raise ValueError(f"refused by the server: {reply['error']}")
        self.last_ms = reply["ms"]
        return reply["chunk"].to(parts(cond)[0].device)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
