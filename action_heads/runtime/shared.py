"""Copies of modules that share their weights, with parts replaced: a faster head is the same head."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor, nn

from action_heads.head import ActionHead

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

    def assert_frozen(self, thorough: bool = False) -> None:
        """Check the head that it was made of, whose weights count."""
        self._made_of[0].assert_frozen(thorough)


def rebuilt(module: M, replace: Callable[[nn.Module], nn.Module | None]) -> M:
    """The same tree over the same weights, with what `replace` gives in the place of parts that it knows."""
    new = copy.copy(module)
    new._modules = {
        name: None if part is None else replace(part) or rebuilt(part, replace)
        for name, part in module._modules.items()
    }
    return new
