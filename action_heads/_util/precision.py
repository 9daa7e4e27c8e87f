"""Choices of float32 and bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from action_heads._util.machine import cpu_flags


class KeepFloat32(nn.Module):
    """A module whose floating-point buffers follow `to(device)` but keep their dtype.

    bfloat16 has an 8-bit mantissa. That is enough for the weights of a head, but positions in a normaliser and noise
    levels of a schedule would be wrong by 0.4 %.
    """

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: t.to(fn(t).device) if t.is_floating_point() else fn(t), recurse)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which autocast is off for a kind of device, if it has autocast."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.autocast_mode.is_autocast_available(kind) else nullcontext()


@lru_cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Return whether training should compute in bfloat16: on CUDA if supported, on a CPU if it has instructions for it.

    Without these instructions bfloat16 is emulated and several times slower. PyTorch has no public query for them, so
    the CPU's flags are read. With a measured speed, the precision of a run would depend on the load of the machine.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and not FAST_BFLOAT16.isdisjoint(cpu_flags())


# Flags of x86 with AVX-512 BF16 or AMX, and of 64-bit ARM with BF16.
FAST_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
