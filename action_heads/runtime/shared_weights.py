"""Heads that share another one's weights and compute in a way of their own: a faster head is the same head."""

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
    """What was made for the most recent keys, such as shapes; no more than `kept`."""

    def __init__(self, kept: int):
        self.kept = kept
        self.made: OrderedDict[tuple, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self.made)

    def get(self, key: tuple, make: Callable[[], T]) -> T:
        """What is kept under a key, made if there is nothing."""
        if key not in self.made:
            self.made[key] = make()
            if len(self.made) > self.kept:
                self.made.popitem(last=False)
        self.made.move_to_end(key)
        return self.made[key]


class FastHead(Denoiser):
    """A head made of another one's parts, with its network in a precision of its own. Its subclasses are faster."""

    def __init__(self, head: Denoiser, dtype: torch.dtype):
        super().__init__(head.config, cast(head, dtype), head.modulation, head.objective, head.normalizer)
        self._plans, self._tables = head._plans, head._tables
        self._original = (head,)  # in a tuple, so that torch does not take it for a part

    @property
    def original(self) -> Denoiser:
        """The head whose parts it shares, and whose weights count."""
        return self._original[0]

    @property
    def frozen(self) -> bool:
        return self.original.frozen

    def fingerprint(self) -> str:
        return self.original.fingerprint()

    def assert_frozen(self, thorough: bool = False) -> None:
        self.original.assert_frozen(thorough)


def cast(head: Denoiser, dtype: torch.dtype) -> Backbone:
    """A head's network, or a copy of it in another precision. Features of the step keep the precision of the head."""
    if head.dtype == dtype:
        return head.backbone
    network = copy.deepcopy(head.backbone).to(dtype)
    network.step = head.backbone.step
    return network


def rebuilt(module: M, replace: Callable[[nn.Module], nn.Module | None]) -> M:
    """The same tree over the same weights, with what `replace` gives in the place of parts that it knows."""
    new = copy.copy(module)
    new._modules = {
        name: None if part is None else replace(part) or rebuilt(part, replace)
        for name, part in module._modules.items()
    }
    return new
