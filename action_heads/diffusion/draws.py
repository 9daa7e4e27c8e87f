"""Random numbers from a generator, or from torch's own.

`torch.compile` traces a batch of another size with symbolic shapes, and there torch 2.11 refuses `generator=None` where
it takes no generator at all. So everything that is drawn in `loss` and `sample` is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Generator = torch.Generator | None  # torch's own where there is none


def normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(tuple(shape), device=device, **_of(generator))


def uniform(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.rand(tuple(shape), device=device, **_of(generator))


def integers(end: int, shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Whole numbers, long, from 0 to end - 1."""
    return torch.randint(end, tuple(shape), device=device, **_of(generator))


def _of(generator: Generator) -> dict[str, Any]:
    return {} if generator is None else {"generator": generator}
