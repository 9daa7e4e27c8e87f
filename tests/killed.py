"""Runs that are killed at a chosen moment, within a `with` block that expects it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest


class Killed(Exception):
    pass


def die() -> None:
    raise Killed


@contextmanager
def killed_at_step(
    trainer: type[Any], step: int, how: Callable[[], None] = die, raises: type[BaseException] = Killed
) -> Iterator[None]:
    """End the run in the block by `how`, before its trainer takes the step after so many."""
    train_step = trainer.train_step

    def cut(self, *args):
        if self.step == step:
            how()
        return train_step(self, *args)

    with patch.object(trainer, "train_step", cut), pytest.raises(raises):
        yield


@contextmanager
def killed_at_write(count: int) -> Iterator[None]:
    """Kill the run in the block once it has put so many files in place."""
    replace, left = os.replace, iter(range(count))

    def cut(*paths):
        if next(left, None) is None:
            raise Killed
        replace(*paths)

    with patch.object(os, "replace", cut), pytest.raises(Killed):
        yield
