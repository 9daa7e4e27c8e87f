"""Stage 1's batches: each a function of its number alone, so that they may be drawn ahead, and again.

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
AHEAD = 2  # batches that wait for the trainer, a thread


class Batch(NamedTuple):
    """Normalised chunks and what Stage 1 may condition on."""

    x0: Tensor  # (b h a)
    signal: Tensor | None  # (b c)

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device, from pinned memory without waiting for it."""
        signal = None if self.signal is None else self.signal.to(device, non_blocking=True)
        return Batch(self.x0.to(device, non_blocking=True), signal)

    def pinned(self) -> Batch:
        """Copy the batch to pinned memory, from which a GPU can fetch it by itself."""
        return Batch(self.x0.pin_memory(), None if self.signal is None else self.signal.pin_memory())


@dataclass
class Batches:
    """Draws batches of a source, as a head in pretraining sees them. All of it on the CPU."""

    source: data.Source
    space: ActionSpace
    normalizer: Normalizer
    signal: str  # one of `objective.SIGNALS`
    task_boxes: float  # share of chunks seen through a random task's workspace

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """So many chunks in the network's units."""
        actions, signal = data.chunks(self.source(n, generator), self.space)
        x0 = self.normalizer.normalize(actions)
        boxed = torch.rand((n, 1, 1), generator=generator) < self.task_boxes
        x0 = torch.where(boxed, data.through_a_task(actions, self.space, generator), x0)
        # A code and the paper's pose signal are read off the chunk itself.
        return Batch(x0, {"none": None, "joints": signal}.get(self.signal, x0.flatten(1)))


def fit(source: data.Source, space: ActionSpace, n: int = 20_000) -> tuple[Normalizer, int]:
    """Statistics of the head itself, the box that holds the positions of n chunks; and the width of joint signals."""
    actions, signal = data.chunks(source(n, torch.Generator().manual_seed(0)), space)
    return Normalizer.fit(actions, space), 0 if signal is None else signal.shape[1]


def ahead(draw: Callable[[int], T], steps: Iterable[int], workers: int = 1) -> Generator[T]:
    """draw(step) for every step, in order, drawn in background threads while the caller works; 0 draws on demand.

    Threads, not processes: drawing is torch and file reading, which release the interpreter's lock, and nothing has to
    be pickled. An exception in a thread is raised here, in its turn.
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
