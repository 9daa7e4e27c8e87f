"""A stand-in on the CPU for the capture of a training step as a CUDA graph."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Captured:
    """A graph that computes only in replays, and writes each loss over the one before, as CUDA's do.

    A graph repeats what it did in the capture, so a replay that does other operations than the first one fails.
    """

    def __init__(self):
        self.captures = 0

    def __call__(self, step, stream, generators, pool):
        self.captures += 1
        static, first = torch.zeros(()), []

        def replay():
            with Operations() as done:
                loss = step()
            first.extend([] if first else done.names)
            assert done.names == first, "a graph would have repeated other operations"
            return static.copy_(loss)

        return replay


class Operations(TorchDispatchMode):
    """Collect the names of the operations that are done within a block."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
