"""Random numbers from a given generator, or from torch's default one.

`loss` and `sample` draw all random numbers here, because `generator=None` must not reach torch: when `torch.compile`
traces with symbolic shapes, torch 2.11 accepts a missing `generator` but refuses None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Generator = torch.Generator | None  # None: torch's default generator


def place(generator: Generator, device: torch.device) -> torch.device:
    """Return where numbers for a device are drawn: with a generator on its own, so that they are the same anywhere."""
    return device if generator is None else generator.device


def normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Draw standard normal numbers, float32."""
    return torch.randn(tuple(shape), device=device, dtype=torch.float32, **_of(generator))


def uniform(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Draw uniform numbers from [0, 1), float32."""
    return torch.rand(tuple(shape), device=device, dtype=torch.float32, **_of(generator))


def integers(end: int, shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Draw int64 numbers from 0 to `end` - 1, all equally likely."""
    return torch.randint(end, tuple(shape), device=device, **_of(generator))


def _of(generator: Generator) -> dict[str, Any]:
    return {} if generator is None else {"generator": generator}
