"""Heads that share the weights of another head and compute faster."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

from action_heads.backbones import Backbone
from action_heads.denoiser import Denoiser

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Recent(Generic[T]):
    """A cache of at most `kept` values for the most recent keys, such as shapes."""

    def __init__(self, kept: int):
        self.kept = kept
        self.made: OrderedDict[tuple, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self.made)

    def get(self, key: tuple, make: Callable[[], T]) -> T:
        """Return the value of a key, made by `make` if there is none."""
        if key not in self.made:
            self.made[key] = make()
            if len(self.made) > self.kept:
                self.made.popitem(last=False)
        self.made.move_to_end(key)
        return self.made[key]


class FastHead(Denoiser):
    """A head that shares the parts of another head, with its network in another precision. Subclasses are faster.

    Attributes:
        copied: whether it computes with copies of the projections, and not with the memory of the head's own.
    """

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head.config, cast(head, dtype), head.modulation, head.objective, head.normalizer)
        self.copied = head.dtype != dtype
        self._plans, self._tables = head._plans, head._tables
        self._original = (head,)  # A tuple, so that torch does not register it as a submodule.

    @property
    def original(self) -> Denoiser:
        """The head whose parts this one shares."""
        return self._original[0]

    @property
    def frozen(self) -> bool:
        return self.original.frozen

    def fingerprint(self) -> str:
        return self.original.fingerprint()

    def assert_frozen(self, thorough: bool = False) -> None:
        self.original.assert_frozen(thorough)


def cast(head: Denoiser, dtype: torch.dtype) -> Backbone:
    """Return a head's network, or a copy in another precision whose step embedding keeps the head's precision."""
    if head.dtype == dtype:
        return head.backbone
    network = copy.deepcopy(head.backbone).to(dtype)
    network.step = head.backbone.step
    return network


def rebuilt(module: M, replace: Callable[[nn.Module], nn.Module | None]) -> M:
    """Return the same module tree over the same weights, with each part replaced for which `replace` returns one."""
    new = copy.copy(module)
    new._modules = {
        name: None if part is None else replace(part) or rebuilt(part, replace)
        for name, part in module._modules.items()
    }
    return new
