"""Messages between a robot and its policy, in msgpack. Tensors are raw bytes with shape and dtype; nothing is pickled.

This is version 1. The server first sends a greeting {"protocol", "head", "fingerprint", "horizon", "action_dim",
"cond_dim", "largest", "echo"}. A request has "cond", any of "mask", "previous", "steps", "sampler", "spacing",
"committed", "start" and "seed" with the meaning they have in `ConditionedHead.sample`, and an integer "id". The answer
is {"chunk", "ms"} with the milliseconds of sampling, or {"error"}. A server whose greeting has "echo" returns the
request's "id". A condition of several sources is {"parts": {...}}.

A server whose greeting has "streams" keeps embeddings by name. {"stream", "keep"} with any of {"mask", "age"} gives it
some of the sources, whose observation was made "age" seconds ago; {"stream", "observe"} an observation that the server
embeds itself; {"stream", "forget": true} ends a stream. Their answer is {"kept"}, true if it was taken. A request for a
chunk may then have "stream" and "max_age", in seconds, and only the other sources in "cond". Its answer has the "age"
of the embedding; {"error", "stale": true} means that there is none as new as that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from action_heads._util.extras import require

PROTOCOL = 1
LARGEST = 64 * 2**20  # bytes of a message
# A valid message has about thirty small containers. A few megabytes of empty ones would take gigabytes of memory.
CONTAINERS, ENTRIES, AXES, TEXT = 128, 64, 8, 4096
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "bool": torch.bool}
DTYPES |= {"uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WireError(ValueError):
    """A message that does not follow the protocol."""


def pack(message: dict[str, Any]) -> bytes:
    """Return a dictionary of tensors, numbers and texts as bytes."""
    encoded = {key: encode(value, key) for key, value in message.items() if value is not None}
    try:
        data = require("msgpack", "serve").packb(encoded)
    except (TypeError, ValueError, OverflowError) as error:  # An integer of more than 64 bits is one cause.
        raise WireError(f"the message can't be sent: {error}; a message holds tensors, numbers and strings") from error
    if len(data) > LARGEST:
        raise WireError(f"a message of {len(data):,} bytes is over the limit of {LARGEST:,}: {LESS}")
    return data


LESS = "send fewer rows or tokens at once, or pool the tokens first"


def unpack(data: bytes | str) -> dict[str, Any]:
    """Return the dictionary of a message, with tensors on the CPU. Raise a `WireError` for anything else."""
    msgpack = require("msgpack", "serve")
    if isinstance(data, str):
        raise WireError("got a text message; messages are binary msgpack")
    if len(data) > LARGEST:
        raise WireError(f"a message of {len(data):,} bytes is over the limit of {LARGEST:,}: {LESS}")
    containers = 0

    def counted(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > CONTAINERS:
            raise ValueError(f"more than {CONTAINERS} maps and lists")
        return container

    def unique(pairs: list) -> dict:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a map with a duplicate key")
        return counted(found)

    def extension(code: int, _: bytes) -> Any:
        raise ValueError(f"an extension type ({code})")

    sizes = {"max_array_len": ENTRIES, "max_map_len": ENTRIES, "max_str_len": TEXT, "max_ext_len": 16}
    hooks = {"list_hook": counted, "object_pairs_hook": unique, "ext_hook": extension}
    try:
        message = msgpack.unpackb(data, max_bin_len=LARGEST, **sizes, **hooks)
    except Exception as error:  # msgpack raises its own exceptions, ValueErrors, and RecursionError in pure Python.
        what = str(error) or type(error).__name__
        raise WireError(f"got {len(data)} bytes that are not msgpack, or not a message: {what[:200]}") from error
    if not isinstance(message, dict):
        raise WireError(f"got a {type(message).__name__}; a message must be a map")
    return {key: decode(value, key) for key, value in message.items()}


def encode(value: Any, name: str = "a value") -> Any:
    """Return a value that msgpack can hold. A tensor becomes shape, dtype and bytes, a dict {"parts": {...}}."""
    if isinstance(value, Mapping):
        return {"parts": {key: encode(part, f"{name}[{key!r}]") for key, part in value.items()}}
    if isinstance(value, bool | str | bytes | list | tuple) or value is None:
        return value
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)  # This converts numpy's numbers.
    if not isinstance(value, Tensor):
        raise WireError(
            f"{name} is a {type(value).__name__}, which no message can hold; pass a tensor, a number or a string"
        )
    if value.dtype not in NAMES:
        if value.is_complex() or value.is_quantized:
            raise WireError(f"{name} is {value.dtype}, which no message can hold; pass {name}.float(), for example")
        value = value.float() if value.is_floating_point() else value.long()
    raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return {"shape": list(value.shape), "dtype": NAMES[value.dtype], "data": raw}


def decode(value: Any, name: Any = "a value", inner: bool = False) -> Any:
    """Return the tensor of a map, or a dictionary of tensors by source; anything else as it is."""
    if not isinstance(value, dict):
        return value
    if not inner and value.keys() == {"parts"}:
        found = value["parts"]
        if not isinstance(found, dict) or not found:
            raise WireError(f"the parts of {name} must be a map from sources to tensors, with at least one entry")
        return {key: decode(part, f"{name}[{key!r}]", inner=True) for key, part in found.items()}
    if value.keys() != {"shape", "dtype", "data"}:
        given = ", ".join(sorted(map(repr, value)))[:200] or "nothing"
        raise WireError(
            f"{name} has the keys {given}; a tensor has shape, dtype and data, and several sources have 'parts'"
        )
    shape, dtype, data = value["shape"], value["dtype"], value["data"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WireError(f"{name} has dtype {str(dtype)[:40]!r}; expected one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > AXES or not all(type(n) is int and n > 0 for n in shape):
        raise WireError(f"{name} has shape {str(shape)[:100]}; expected up to {AXES} axes, none of them empty")
    if not isinstance(data, bytes):
        raise WireError(f"{name} has data of type {type(data).__name__}; expected binary data")
    expected = math.prod(shape) * torch.empty(0, dtype=DTYPES[dtype]).element_size()
    if expected != len(data):
        raise WireError(f"{name} has {len(data)} bytes, but shape {shape} and dtype {dtype} need {expected}")
    tensor = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype] if dtype != "bool" else torch.uint8).view(shape)
    if dtype != "bool":
        return tensor
    if (tensor > 1).any():
        raise WireError(f"{name} has dtype bool, but bytes that are neither 0 nor 1")
    return tensor.bool()
