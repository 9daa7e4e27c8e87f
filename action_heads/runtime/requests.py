"""The requests that a server of policies answers: read, checked and computed, without the connection.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import math
import time
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from action_heads._util.checks import check_condition
from action_heads._util.conditions import move, parts
from action_heads.acting import Policy, options_of
from action_heads.diffusion.continuing import Continue
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import wire
from action_heads.runtime.streams import Streams
from action_heads.runtime.waiting import StaleEmbedding

TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "steps": (int, "a whole number"),
    "committed": (int, "a whole number"),
    "seed": (int, "a whole number"),
    "id": (int, "a whole number"),
    "start": (Real, "a number"),
    "sampler": (str, "a text"),
    "spacing": (str, "a text"),
    "previous": (Tensor, "a tensor"),
    "mask": ((Tensor, dict), "a tensor, or several as 'parts'"),
    "cond": ((Tensor, dict), "a tensor, or several as 'parts'"),
    "stream": (str, "a text"),
    "keep": (dict, "several tensors as 'parts'"),
    "observe": (dict, "several tensors and texts as 'parts'"),
    "forget": (bool, "true"),
    "age": (Real, "a number"),
    "max_age": (Real, "a number"),
}
VERBS = ("keep", "observe", "forget")  # what a request asks of a stream; one without asks for a chunk


def read(policy: Policy, data: bytes | str, largest: int, streams: Streams) -> dict[str, Any]:
    """Return a request that `compute` can take, its tensors on the CPU, {"kept"} for a stream's, or {"error"}."""
    number: Any = None
    try:
        request = {name: value for name, value in wire.unpack(data).items() if value is not None}
        if type(request.get("id")) is int:
            number = request["id"]
        check_types(request)
        if verbs := [verb for verb in VERBS if verb in request]:
            return {"kept": stored(streams, verbs, request), "id": number}
        if "stream" not in request:
            check(policy, request, largest)
            return request
        # The stream's part was checked when it was kept.
        check_own(streams, request)
        name, cond, mask = request.pop("stream"), request["cond"], request.get("mask")
        cond, mask, age = streams.complete(name, cond, mask, request.pop("max_age", None))
        request |= {"cond": cond} | ({} if mask is None else {"mask": mask})
        check(policy, request, largest, values=False)
        return request | {"age": age}
    except StaleEmbedding as error:
        return refusal(error, number) | {"stale": True}
    except Exception as error:
        return refusal(error, number)


def stored(streams: Streams, verbs: list[str], request: dict[str, Any]) -> bool:
    """Do what a request asks of a stream, and return whether it was done."""
    extra = request.keys() - {"stream", "id", *verbs[:1], *(("mask", "age") if verbs == ["keep"] else ())}
    if extra or "stream" not in request:
        raise wire.WireError(
            f"{verbs[0]} goes with stream alone, and keep with mask and age too; the request has "
            f"{', '.join(sorted(request))}"
        )
    name, verb = request["stream"], verbs[0]
    if verb == "keep":
        streams.keep(name, request["keep"], request.get("mask"), seconds_of(request, "age"))
    elif verb == "observe":
        return streams.observe(name, request["observe"])
    elif request["forget"]:
        streams.forget(name)
    return True


def check_types(request: dict[str, Any]) -> None:
    """Raise a `WireError` for an entry that is unknown or of another type."""
    if unknown := request.keys() - TYPES.keys():
        names = ", ".join(sorted(str(name)[:40] for name in unknown))[:200]
        raise wire.WireError(f"unknown keys in the request: {names}; known keys are {', '.join(sorted(TYPES))}")
    for name, value in request.items():
        kind, words = TYPES[name]
        if not isinstance(value, kind) or (kind in (int, Real) and isinstance(value, bool)):
            given = repr(value)[:60] if isinstance(value, int | float | str) else f"a {type(value).__name__}"
            raise wire.WireError(f"{name} must be {words}, got {given}")


def seconds_of(request: dict[str, Any], name: str) -> float:
    """Return the seconds that a request has by a name, 0 by default; raise a `WireError` unless they are 0 or more."""
    value = request.get(name, 0.0)
    if not 0 <= value < math.inf:
        raise wire.WireError(f"{name} must be a number of seconds, 0 or more; got {value!r}")
    return value


def check_own(streams: Streams, request: dict[str, Any]) -> None:
    """Check what a robot sends beside the embedding of its stream."""
    if "cond" not in request:
        raise wire.WireError("cond must be a dict of the sources that the stream lacks, but the request has none")
    streams.checked("cond", request["cond"], request.get("mask"))
    seconds_of(request, "max_age")


def check(policy: Policy, request: dict[str, Any], largest: int, values: bool = True) -> None:
    """Raise a ValueError that names what is wrong with a request, before anything is computed for it."""
    if alone := request.keys() & {"age", "max_age"}:
        raise wire.WireError(f"{', '.join(sorted(alone))} needs stream, and age goes with keep alone")
    if "cond" not in request:
        raise wire.WireError("cond must be a torch tensor, or several by name, but the request has none")
    # The values are checked before they reach an accelerator, where the check would make the host wait.
    check_condition(request["cond"], request.get("mask"), policy.adapter.config.cond_dim, values)
    if "previous" in request and not request["previous"].is_floating_point():
        raise wire.WireError(f"previous must hold floats, got {request['previous'].dtype}")
    if "previous" in request and not request["previous"].isfinite().all():
        raise wire.WireError(
            "previous has NaN or infinite values; pass the chunk that the last call of sample returned"
        )
    rows, asked = len(parts(request["cond"])[0]), evaluations(request)
    if asked > largest:
        raise wire.WireError(
            f"a batch of {rows} with {asked // rows} evaluations of the network each is {asked}, more than the "
            f"{largest} that this server computes at once. Send fewer rows, use fewer denoising steps, or start the "
            "server with a higher --largest."
        )


def evaluations(request: dict[str, Any]) -> int:
    """Return the rows of a request's batch times the evaluations of the network for each."""
    return len(parts(request["cond"])[0]) * options_of(Sampling, request).evaluations


def compute(policy: Policy, request: dict[str, Any]) -> dict[str, Any]:
    """Return {"chunk", "ms"} for a request that `read` returned, or {"error"}."""
    began, number, seed = time.perf_counter(), request.get("id"), request.get("seed")
    try:
        there = {name: move(value, policy.head.device) for name, value in request.items()}
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        sampling, continued = options_of(Sampling, there), options_of(Continue, there)
        chunk = policy.act(there["cond"], sampling, continued, there.get("mask"), generator).cpu()
    except Exception as error:
        return refusal(error, number)
    answered = {"chunk": chunk, "ms": 1e3 * (time.perf_counter() - began), "id": number}
    return answered | ({"age": request["age"]} if "age" in request else {})


def refusal(error: Exception, number: int | None) -> dict[str, Any]:
    """Return the answer to a request that can't be computed."""
    known = isinstance(error, ValueError | TypeError | RuntimeError)
    text = str(error) if known and str(error) else f"the server failed: {type(error).__name__}: {error}"
    return {"error": text[:1000]} | ({} if number is None else {"id": number})
