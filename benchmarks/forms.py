"""The forms in which `latency.py` times other systems: weights in bfloat16, and compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BF16_WEIGHTS, INDUCTOR = "bf16 weights", "inductor"
# How a name says the form of a system. Without one it is uncompiled, and in bf16 it uses autocast if it has to.
FORMS = (BF16_WEIGHTS, INDUCTOR, "eager", "native", "packed", "graph", "fused")


def split(name: str) -> tuple[str, str]:
    """Return the system and the form of a case's name."""
    system, _, form = name.rpartition(", ")
    return (system, form) if form in FORMS else (name, "eager")


def cast(parts: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Cast the weights of modules. A part that is one linear layer then casts its input, if it has to.

    VLAs' experts compute step embeddings and their output in float32, whatever their weights are.
    """

    def to_own(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.to(dtype) if isinstance(x, Tensor) else x for x in given)

    for part in parts:
        part.to(dtype)
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(to_own)


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors that are made without a dtype, such as noise, have this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def under(dtype: torch.dtype, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function during which new tensors have this dtype."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with default(dtype):
            return function(*args, **kwargs)

    return call


def compiled(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Compile a function by inductor, one program for each shape; on CUDA replayed as a CUDA graph."""
    return torch.compile(function, dynamic=False, mode="reduce-overhead" if device == "cuda" else None)
