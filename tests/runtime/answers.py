"""Answer requests as a server does, without its connection and its queue."""

from __future__ import annotations

from typing import Any

from action_heads.acting import Policy
from action_heads.runtime.requests import compute, read
from action_heads.runtime.serve import EVALUATIONS
from action_heads.runtime.streams import Streams


def answer(
    policy: Policy, data: bytes | str, largest: int = EVALUATIONS, streams: Streams | None = None
) -> dict[str, Any]:
    """Return the answer to a request: a chunk, or an error. No bad request raises, so none ends the server."""
    streams = streams or Streams(policy.adapter.config.cond_dim, policy.head.device)
    request = read(policy, data, largest, streams)
    return request if "error" in request or "kept" in request else compute(policy, request)
