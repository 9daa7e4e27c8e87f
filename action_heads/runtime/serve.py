"""`action-heads serve`: a policy for a robot whose computer is another one. Its client is `RemotePolicy`.

There is no password and no encryption: bind it to an address that robots alone can reach, or go through a tunnel.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import torch

from action_heads.conditions import move
from action_heads.extras import require
from action_heads.policy import ConditionedHead
from action_heads.runtime import wire

KNOWN = {"cond", "mask", "previous", "steps", "sampler", "spacing", "committed", "start", "seed"}


@dataclass(frozen=True)
class ServeConfig:
    """Serve a policy over a websocket.

    Attributes:
        adapter: folder or Hub id of a saved adapter, which points to its head.
        host: address to listen at; this machine alone if not given.
        port: to listen at.
        device: "cpu" or "cuda".
        method: how it is compiled; see `ConditionedHead.compile`.
        bf16: compute the head's network in bfloat16.
    """

    adapter: str
    host: str = "127.0.0.1"
    port: int = 8765
    device: str = "cpu"
    method: str = "auto"
    bf16: bool = False


def serve(config: ServeConfig) -> None:
    """Entry point of the command; until Ctrl-C."""
    policy = ConditionedHead.from_pretrained(config.adapter, device=config.device)
    policy = policy.compile(config.method, dtype=torch.bfloat16 if config.bf16 else None)
    with server(policy, config.host, config.port) as running:
        print(f"{policy}\nat ws://{config.host}:{config.port}")
        running.serve_forever()


def server(policy: ConditionedHead, host: str = "127.0.0.1", port: int = 8765) -> Any:
    """A `websockets` server, to be run by `serve_forever` and ended by `shutdown`. One chunk is made at a time."""
    lock = threading.Lock()
    hello = {
        "protocol": wire.PROTOCOL,
        "head": policy.head.config.name,
        "horizon": policy.head.config.horizon,
        "action_dim": policy.head.config.space.dim,
        "cond_dim": policy.adapter.config.cond_dim,
    }

    def handle(connection: Any) -> None:
        connection.send(wire.pack(hello))
        for data in connection:
            with lock:
                reply = answer(policy, data)
            connection.send(wire.pack(reply))

    # Uncompressed: floats hardly shrink, and it takes longer than sampling.
    return require("websockets.sync.server", "serve").serve(handle, host, port, compression=None, max_size=wire.LARGEST)


def answer(policy: ConditionedHead, data: bytes | str) -> dict[str, Any]:
    """The chunk that a request asks for, or what is wrong with it: a robot's mistake must not end the server."""
    began = time.perf_counter()
    try:
        request = wire.unpack(data)
        if unknown := request.keys() - KNOWN:
            raise wire.WireError(
                f"unknown {', '.join(sorted(map(str, unknown)))}; known are {', '.join(sorted(KNOWN))}"
            )
        seed, device = request.pop("seed", None), policy.head.objective.alpha.device
        options: dict[str, Any] = {name: move(value, device) for name, value in request.items()}
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        chunk = policy.sample(options.pop("cond", None), generator=generator, **options).cpu()
    except (ValueError, TypeError, RuntimeError) as error:
        return {"error": str(error)}
    return {"chunk": chunk, "ms": 1e3 * (time.perf_counter() - began)}
