"""Messages between a robot and its policy: msgpack, tensors as raw bytes with shape and dtype. Nothing unpickles.

Version 1. The server speaks first, {"protocol", "head", "horizon", "action_dim", "cond_dim"}. A request is {"cond"} and
any of {"mask", "previous", "steps", "sampler", "spacing", "committed", "start", "seed"}, as `ConditionedHead.sample`
names them; the answer {"chunk", "ms"}, the time that sampling took, or {"error"}. Several sources are {"parts": {...}}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from action_heads.extras import require

PROTOCOL = 1
LARGEST = 64 * 2**20  # bytes of a message
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "bool": torch.bool}
DTYPES |= {"uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WireError(ValueError):
    """A message that is not of this protocol."""


def pack(message: dict[str, Any]) -> bytes:
    """A dictionary of tensors, numbers and texts as bytes."""
    return require("msgpack", "serve").packb(
        {key: encode(value) for key, value in message.items() if value is not None}
    )


def unpack(data: bytes | str) -> dict[str, Any]:
    """The dictionary back, tensors on the CPU."""
    msgpack = require("msgpack", "serve")
    if isinstance(data, str):
        raise WireError("got a text; messages are binary msgpack")
    try:
        message = msgpack.unpackb(data)
    except Exception as error:  # msgpack raises a family of its own, and ValueErrors
        raise WireError(f"got {len(data)} bytes that are not msgpack: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"got a {type(message).__name__}; a message is a map")
    return {key: decode(value) for key, value in message.items()}


def encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {"parts": {name: encode(part) for name, part in value.items()}}
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)  # numpy's too
    if not isinstance(value, Tensor):
        return value
    if value.dtype not in NAMES:
        value = value.float()
    raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return {"shape": list(value.shape), "dtype": NAMES[value.dtype], "data": raw}


def decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("parts"), dict):
        return {name: decode(part) for name, part in value["parts"].items()}
    try:
        shape, dtype, data = value["shape"], DTYPES[value["dtype"]], value["data"]
        size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    except (KeyError, TypeError) as error:
        raise WireError(f"a tensor needs shape, data and a dtype of {', '.join(DTYPES)}: {error}") from error
    if not all(isinstance(n, int) and n > 0 for n in shape) or not isinstance(data, bytes) or size != len(data):
        raise WireError(f"a tensor of shape {shape} and dtype {value['dtype']} has {size} bytes, not what came")
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
