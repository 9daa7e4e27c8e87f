"""Tables that follow from a configuration, computed once for each device.

They are not buffers of a module. Libraries that load a whole model fill it from its own files and overwrite the buffers
that these lack, as `from_pretrained` of transformers does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from action_heads._util.precision import without_autocast


class Tables(Protocol):
    """Several tables in one object."""

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...


T = TypeVar("T", bound="Tensor | Tables")


def kept(tables: dict[Any, tuple[T, int]], key: Any, device: torch.device, make: Callable[[], T]) -> T:
    """Return the cached table under a key, on a device; make it if it is missing, or if somebody wrote to it."""
    value, before = tables.get(key, (None, 0))
    if value is None or (not torch.compiler.is_compiling() and writes(value) != before):
        # The table outlives the call, so it must not depend on where the first call stands: inside autocast it would
        # be rounded, and as an inference tensor training could not use it.
        with torch.inference_mode(False), torch.no_grad(), without_autocast(device):
            value = make()
            tables[key] = value, writes(value)
    return value


def writes(table: Tensor | Tables) -> int:
    """Count the writes to a table, by torch's version counters."""
    return sum(tensor._version for tensor in ((table,) if isinstance(table, Tensor) else table.tensors))
