"""`action-heads serve`: serve a policy to robots over the network. Its client is `RemotePolicy`.

The server has no password and no encryption. Bind it to an address that only robots can reach, or use a tunnel.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from action_heads._util.conditions import zeros
from action_heads._util.extras import require
from action_heads._util.flags import check_choices, mistake
from action_heads._util.limits import check_width
from action_heads.acting import Policy
from action_heads.policy import ConditionedHead
from action_heads.runtime import wire
from action_heads.runtime.compiled import METHODS
from action_heads.runtime.listener import Listener
from action_heads.runtime.request_queue import Client, FairQueue
from action_heads.runtime.requests import compute, evaluations, read
from action_heads.runtime.streams import Streams

EVALUATIONS = 640  # 64 chunks of ten steps: a quarter of a second for a head of 5M on two cores
WAIT, FEWEST = 0.5, 10  # default limit of a request in seconds; one chunk of ten denoising steps is always served
CLIENTS = 64
PAUSE = 0.02  # seconds before a client's next message is read after an error, which slows down a flood of bad messages
PORTS = 2**16 - 1
HELLO = 5.0  # seconds that a connection has for its opening handshake


@dataclass(frozen=True)
class ServeConfig:
    """Serve a policy over a websocket.

    Attributes:
        adapter: folder or Hub id of a saved adapter, which points to its head.
        host: address to listen on; the default accepts connections from this machine only.
        port: port to listen on.
        device: cpu or cuda.
        method: how the policy is compiled: auto, native, packed, inductor, graph, fused or eager. inductor compiles
            again for every batch size, and all clients wait meanwhile.
        bf16: compute the head's network in bfloat16.
        largest: size of the largest request: its batch size times its evaluations of the network; other clients wait
            while it is computed. If not given, what this machine computes in half a second, at most 640.
        clients: number of connections kept. One more closes a connection that never got a chunk, or else the one that
            was silent longest.
    """

    adapter: str
    host: str = "127.0.0.1"
    port: int = 8765
    device: str = "cpu"
    method: str = "auto"
    bf16: bool = False
    largest: int | None = None
    clients: int = CLIENTS

    def __post_init__(self):
        if self.largest is not None:
            check_width("largest", self.largest)
        check_width("clients", self.clients)
        check_choices(self, method=("auto", *METHODS))
        if not 0 < self.port <= PORTS:
            raise mistake("port", f"must be 1 to {PORTS}, got {self.port}")


def serve(config: ServeConfig) -> None:
    """Run `action-heads serve` until Ctrl-C."""
    policy = ConditionedHead.from_pretrained(config.adapter, device=config.device)
    policy = policy.compile(config.method, dtype=torch.bfloat16 if config.bf16 else None)
    one = seconds(policy)
    largest = config.largest or max(FEWEST, min(EVALUATIONS, int(WAIT / one)))
    with server(policy, config.host, config.port, largest=largest, clients=config.clients) as running:
        wait = largest * one
        print(
            f"{policy}\nServing at ws://{config.host}:{config.port}. The largest request, of {largest} rows x "
            f"evaluations, takes up to {wait:.2g} s.",
            flush=True,
        )
        if wait > 1:
            fitting = max(1, int(largest / wait))
            print(f"Other clients wait meanwhile. --largest {fitting} would keep that below a second.", flush=True)
        running.serve_forever()


def seconds(policy: Policy) -> float:
    """Return the seconds of one evaluation for one row, after a warm-up."""
    cond, times = zeros(policy.adapter.config.cond_dim, 1, policy.head.device), []
    for _ in range(4):
        began = time.perf_counter()
        policy.sample(cond, steps=1).cpu()
        times.append(time.perf_counter() - began)
    return min(times)


def server(
    policy: Policy,
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    largest: int = EVALUATIONS,
    clients: int = CLIENTS,
    embed: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None,
) -> Any:
    """Return a `websockets` server, to be run by `serve_forever` and ended by `shutdown`.

    One request is computed at a time. Each client can have one request in the queue, and clients that ask for less are
    served first. A request whose connection was closed is not computed. See `ServeConfig` for `largest` and `clients`.

    `embed` is a slow encoder, such as a VLM, from the observation that a client sends with `RemotePolicy.observe`, a
    dictionary, to (cond, mask): a dict of some of the adapter's sources and of their masks. It runs in one background
    thread, and chunks are computed meanwhile from the embedding before.
    """
    check_width("largest", largest)
    check_width("clients", clients)
    library, queue = require("websockets.sync.server", "serve"), FairQueue()
    streams = Streams(policy.adapter.config.cond_dim, policy.head.device, embed)
    closed = require("websockets.exceptions", "serve").ConnectionClosed
    hello = wire.pack(
        {
            "protocol": wire.PROTOCOL,
            "head": policy.head.config.name,
            "fingerprint": policy.head.fingerprint(),
            "horizon": policy.head.config.horizon,
            "action_dim": policy.head.config.space.dim,
            "cond_dim": policy.adapter.config.cond_dim,
            "largest": largest,
            "echo": True,
            "streams": True,
        }
    )

    def stop() -> None:
        queue.stop()
        streams.stop()

    def handle(connection: Any) -> None:
        client = Client()

        def there() -> bool:
            return connection.protocol.state.name == "OPEN"

        def reply(data: bytes | str) -> dict[str, Any] | None:
            request = read(policy, data, largest, streams)
            if "error" in request or "kept" in request:
                return request
            # Reading and copying a condition of many tokens takes as long as computing, so its bytes count too.
            cost = evaluations(request) + len(data) / 2**16
            return queue.run(client, cost, lambda: compute(policy, request), there)

        try:
            connection.send(hello)
            for data in connection:
                connection.socket.seen = time.monotonic()
                if (answered := reply(data)) is None:
                    return
                connection.send(wire.pack(answered))
                connection.socket.seen = time.monotonic()
                if "error" in answered:
                    time.sleep(PAUSE)
                else:
                    connection.socket.served = True
        except closed:  # Robots come and go, and garbage in place of frames closes a connection.
            return

    # No compression: floats hardly shrink, it takes longer than sampling, and a few bytes could expand to gigabytes.
    limits = {"compression": None, "max_size": wire.LARGEST, "max_queue": 1, "open_timeout": HELLO, "close_timeout": 1}
    return library.serve(handle, sock=Listener(host, port, clients, stop), logger=quiet(), **limits)


def quiet() -> logging.Logger:
    """Return the log of the connections, in which a failed handshake is one line rather than a traceback."""
    log = logging.getLogger("action_heads.serve")
    if _without_traceback not in log.filters:
        log.addFilter(_without_traceback)
    return log


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.exc_info = f"{record.msg}: {type(record.exc_info[1]).__name__}", None
    return True
