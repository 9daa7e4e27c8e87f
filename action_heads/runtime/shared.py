"""Copies of modules that share their weights, with parts replaced: a faster head is the same head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from action_heads.head import ActionHead

M = TypeVar("M", bound=nn.Module)


class SharedHead(ActionHead):
    """A head that computes with another's weights, tables and plans in its own way."""

    def __init__(self, head: ActionHead):
        self.__dict__.update(head.__dict__)
        self._modules = dict(head._modules)
        self._made_of = (head,)  # in a tuple, so that torch does not take it for a part

    @property
    def original(self) -> ActionHead:
        return self._made_of[0].original

    @property
    def projections(self) -> dict[str, Tensor]:
        return self._made_of[0].projections


def rebuilt(module: M, replace: Callable[[nn.Module], nn.Module | None]) -> M:
    """The same tree over the same weights, with what `replace` gives in the place of parts that it knows."""
    new = copy.copy(module)
    new._modules = {
        name: None if part is None else replace(part) or rebuilt(part, replace)
        for name, part in module._modules.items()
    }
    return new
