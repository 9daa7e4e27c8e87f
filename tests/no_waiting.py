"""A check on a CPU that code would not wait for a GPU."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import action_heads.policy

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "lift_fresh", "repeat_interleave")


class NoWaiting(TorchDispatchMode):
    """Fail on operations for which the host would wait for a GPU: reading a value, or a shape that depends on values.

    `lift_fresh` is a tensor made of Python numbers, whose copy to a GPU waits too.
    """

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            getattr(index, "dtype", None) in (torch.bool, torch.uint8) for index in tree_leaves(args[1])
        )
        if by_mask or name in WAITS or name.startswith("_unique"):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def without_checks(policy, monkeypatch):
    """Let a policy skip the checks that read values, as it does on an accelerator after the first call."""
    monkeypatch.setattr(action_heads.policy, "on_host", lambda tensor: False)
    policy._looked_at.add("loss")
    if watch := policy.head._watch:  # It reads values of tensors on a CPU only.
        watch.marks, watch.slices = [mark._replace(copy=None) for mark in watch.marks], []
    return policy.train()
