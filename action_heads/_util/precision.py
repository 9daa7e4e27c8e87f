"""Which numbers keep 32 bits, and where 16 pay."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import nn


class KeepFloat32(nn.Module):
    """A module whose float buffers follow the device but never the dtype.

    A head cast to bfloat16 has 8 bits of mantissa: enough for its weights, but metres in a normaliser or the
    noise levels of a schedule would be off by 0.4 %.
    """

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: t.to(fn(t).device) if t.is_floating_point() else fn(t), recurse)


@lru_cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether training should compute in bfloat16: on CUDA yes, on a CPU if it has instructions for it.

    Without them bfloat16 is emulated, several times slower. PyTorch has no public query, so the system is asked; not
    a stopwatch, which on a busy machine would let one seed train in one precision today and in another tomorrow.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and not FAST_BFLOAT16.isdisjoint(cpu_flags())


# x86 with AVX-512 BF16 or AMX; 64-bit ARM with BF16.
FAST_BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))


def cpu_flags() -> set[str]:
    """What Linux says that the processor can do; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}
