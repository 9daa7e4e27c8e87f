"""Batches of Stage 1. A batch depends only on its number, so it can be drawn ahead of time and drawn again.

Axes: b batch, h horizon, a action, c signal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.pretrain import data

T = TypeVar("T")
AHEAD = 2  # batches per thread that wait for the trainer


class Batch(NamedTuple):
    """Normalised chunks and the signal that Stage 1 conditions on, if any."""

    x0: Tensor  # (b h a)
    signal: Tensor | None  # (b c)

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device. A copy from pinned memory does not block."""
        signal = None if self.signal is None else self.signal.to(device, non_blocking=True)
        return Batch(self.x0.to(device, non_blocking=True), signal)

    def pinned(self) -> Batch:
        """Copy the batch to pinned memory, from which a GPU reads it asynchronously."""
        return Batch(self.x0.pin_memory(), None if self.signal is None else self.signal.pin_memory())


@dataclass
class Batches:
    """A drawer of batches from a source, as pretraining gives them to a head. It works on the CPU."""

    source: data.Source
    space: ActionSpace
    normalizer: Normalizer
    signal: str  # one of `objective.SIGNALS`
    task_boxes: float  # share of chunks that are scaled to a random task's workspace

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n chunks in the normalised units of the network."""
        actions, signal = data.chunks(self.source(n, generator), self.space)
        x0 = self.normalizer.normalize(actions)
        boxed = torch.rand((n, 1, 1), generator=generator) < self.task_boxes
        x0 = torch.where(boxed, data.through_a_task(actions, self.space, generator), x0)
        # The motion code and the paper's pose signal are computed from the chunk itself.
        return Batch(x0, {"none": None, "joints": signal}.get(self.signal, x0.flatten(1)))


def fit(source: data.Source, space: ActionSpace, n: int = 20_000) -> tuple[Normalizer, int]:
    """Return the head's own normalizer, fitted to n chunks, and the width of the joint signal (0 without joints)."""
    actions, signal = data.chunks(source(n, torch.Generator().manual_seed(0)), space)
    return Normalizer.fit(actions, space), 0 if signal is None else signal.shape[1]


def ahead(draw: Callable[[int], T], steps: Iterable[int], workers: int = 1) -> Generator[T]:
    """Yield draw(step) for every step, in order, drawn ahead by background threads. With 0 workers, draw on demand.

    Threads suffice, because torch and file reading release the interpreter's lock, and nothing has to be pickled. An
    exception in a thread is raised when its batch is due.
    """
    if workers == 0:
        yield from map(draw, steps)
        return
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers, "batches")
    try:
        for step in steps:
            waiting.append(pool.submit(draw, step))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
