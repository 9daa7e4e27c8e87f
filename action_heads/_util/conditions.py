"""Conditions of a policy: one tensor, or several tensors by the names of their sources.

Axes: b batch, n tokens, c condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# A vector (b c) or tokens (b n c), or a dict of them by source. A mask (b n) is true or 1 where a token counts.
Condition = Tensor | Mapping[str, Tensor]
Mask = Tensor | Mapping[str, Tensor] | None


CPU = torch.device("cpu")


def on_host(cond: Any) -> bool:
    """Return whether values can be read without waiting for an accelerator. A compiler cannot read values."""
    return not torch.compiler.is_compiling() and all(getattr(part, "device", CPU) == CPU for part in parts(cond))


def parts(cond: Any) -> list[Any]:
    """Return a list of the sources of a condition, or of its masks."""
    return list(cond.values()) if isinstance(cond, Mapping) else [cond]


def zeros(cond_dim: int | Mapping[str, int], batch: int, device: torch.device) -> Condition:
    """Return a condition of zeros (b c), or a dict of them by source."""
    if isinstance(cond_dim, int):
        return torch.zeros(batch, cond_dim, device=device)
    return {name: torch.zeros(batch, width, device=device) for name, width in cond_dim.items()}


def move(cond: Any, device: torch.device) -> Any:
    """Move a condition or its masks to a device. Anything but tensors, such as `Embeddings`, is left as it is."""
    if isinstance(cond, Mapping):
        return {name: move(part, device) for name, part in cond.items()}
    return cond.to(device) if isinstance(cond, Tensor) else cond


def take(cond: Any, mask: Any, rows: Tensor | slice) -> tuple[Any, Any]:
    """Return rows of a condition and of its masks. `Embeddings` return their own mask."""
    if isinstance(cond, Mapping):
        taken = {name: take(part, (mask or {}).get(name), rows) for name, part in cond.items()}
        masks = {name: valid for name, (_, valid) in taken.items() if valid is not None}
        return {name: part for name, (part, _) in taken.items()}, masks or None
    found = cond[rows]
    return found if isinstance(found, tuple) else (found, None if mask is None else mask[rows])
