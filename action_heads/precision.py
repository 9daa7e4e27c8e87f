"""Which numbers keep 32 bits, and where 16 pay."""

from __future__ import annotations

import time
from functools import lru_cache

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

    Without them bfloat16 is emulated, several times slower. PyTorch has no public query, so this times a product.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and _product_time(torch.bfloat16) < 0.8 * _product_time(torch.float32)


def _product_time(dtype: torch.dtype) -> float:
    """Seconds for a product of the size that a head computes, the best of several."""
    x, weight = torch.ones(1024, 256, dtype=dtype), torch.ones(1024, 256, dtype=dtype)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        times.append(time.perf_counter() - began)
    return min(times)
