"""Counts of a call's operations and memory, which do not depend on how busy the machine is.

Axes: b batch, h horizon, a action, c condition, w width, u hidden units, r code, P modulation values, k evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Work:
    """Floating-point operations in products, operators called (without views), tensors allocated, and their bytes."""

    flops: int
    operators: int
    allocations: int
    bytes: int

    def __sub__(self, other: Work) -> Work:
        return Work(*(mine - theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


class Counter(TorchDispatchMode):
    """A dispatch mode that counts operators and the memory they return, in one thread."""

    def __init__(self):
        super().__init__()
        self.operators = self.allocations = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        fresh = [t for t in tree_leaves(result) if isinstance(t, Tensor) and storage(t) not in given]
        self.allocations += len(fresh)
        self.bytes += sum(t.untyped_storage().nbytes() for t in fresh)
        self.operators += bool(fresh) or func._schema.is_mutable
        return result


def storage(tensor: Tensor) -> int:
    """Return an identifier of the memory of a tensor, which views of it share."""
    return tensor.untyped_storage()._cdata


def count(call: Callable[[], object]) -> Work:
    """Return the work of a call. Call it once before, so that tables built on first use are not counted."""
    with FlopCounterMode(display=False) as flops:
        call()
    with Counter() as counter:
        call()
    return Work(flops.get_total_flops(), counter.operators, counter.allocations, counter.bytes)
