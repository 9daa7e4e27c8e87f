"""A training step: loss, gradient, clipping and the update of the weights, eagerly or as one CUDA graph.

A small head on a GPU computes faster than Python launches its kernels. A graph launches all kernels of a step at once.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

WARM_UP = 3  # eager steps before the capture, in which libraries choose kernels and the optimizer allocates its state
KEPT = 16  # number of graphs kept; batches of further shapes, dtypes and other values run eagerly


class TrainingStep:
    """A training step on batches, which returns the loss (scalar) on the device without waiting for it.

    With `graph`, batches are copied into static buffers. On CUDA the first `WARM_UP` batches of a kind train eagerly on
    a side stream, then the step is captured and replayed. Batches of one kind have tensors of the same shapes and
    dtypes, and other values that are equal. If the capture fails, all steps are eager; `reason` and a warning say why.
    A CPU has no graphs, so every step computes on the static buffers and gives the same numbers.

    Args:
        loss: a function of a batch that returns the loss. On CUDA it must not wait for the device, and a graph repeats
            what it did in the capture, so its Python code must do the same for every batch of a kind. What it chooses
            by must be a part of the batch.
        optimizer: the optimizer; `adamw` makes one that a graph can hold.
        clip: largest norm of the gradient.
        generators: the generators from which `loss` draws. They may be seeded anew between steps.
        graph: replay a CUDA graph.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        clip: float,
        generators: Sequence[torch.Generator] = (),
        graph: bool = False,
    ):
        self.loss, self.optimizer, self.clip, self.generators, self.graph = loss, optimizer, clip, generators, graph
        self.parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.stream = torch.cuda.Stream(self.device) if graph and self.device.type == "cuda" else None
        self.recorded: dict[Any, Recorded] = {}
        self.reason = ""
        self.forget()
        own = weakref.ref(self)  # A cycle would keep the optimizer's memory until it is collected.

        def forget(_: torch.optim.Optimizer) -> None:
            if (step := own()) is not None:
                step.forget()

        # Loading replaces the tensors of the optimizer's state, and the graphs would go on with the old ones.
        optimizer.register_load_state_dict_post_hook(forget)

    def forget(self) -> None:
        """Drop all graphs."""
        self.recorded.clear()
        # The graphs run in turn and leave nothing in their memory that the next one needs, so they share it.
        self.pool = torch.cuda.graph_pool_handle() if self.stream else None

    @property
    def replays(self) -> bool:
        """Return whether steps are replayed as CUDA graphs, as soon as they are captured."""
        return self.stream is not None and not self.reason

    def __call__(self, *batch: Any) -> Tensor:
        """Take one training step on a batch of tensors, of mappings and tuples of tensors, and of hashable values."""
        if not self.graph or self.reason:
            return self.descend(*batch)
        kind = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in tree_leaves(batch))
        if kind not in self.recorded and len(self.recorded) == KEPT:
            return self.descend(*batch)
        if kind not in self.recorded:
            self.recorded[kind] = Recorded(tree_map_only(Tensor, torch.clone, batch))
        recorded = self.recorded[kind]
        recorded.fill(batch)
        if recorded.replay is None and recorded.taken < WARM_UP:
            recorded.taken += 1
            with aside(self.stream):
                loss = self.descend(*recorded.batch)
            return loss.clone()
        if recorded.replay is None:
            try:
                step = partial(self.descend, *recorded.batch)
                recorded.replay = capture(step, self.stream, self.generators, self.pool)
            except RuntimeError as error:
                self.reason = f"the capture failed: {str(error).strip().splitlines()[0]}"
                self.optimizer.zero_grad()  # A gradient of the failed capture has no values.
                warnings.warn(f"training without a CUDA graph, since {self.reason}", stacklevel=2)
                return self.descend(*batch)
        return recorded.replay().clone()  # The next replay overwrites it.

    def descend(self, *batch: Any) -> Tensor:
        """Take one training step eagerly. Return the loss (scalar) detached."""
        loss = self.loss(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


@dataclass
class Recorded:
    """The static buffers of batches of one kind, and the step on them once it is captured."""

    batch: Any
    taken: int = 0
    replay: Callable[[], Tensor] | None = None

    def fill(self, batch: Any) -> None:
        """Copy a batch into the buffers."""
        for own, given in zip(tree_leaves(self.batch), tree_leaves(batch), strict=True):
            if isinstance(own, Tensor):
                own.copy_(given, non_blocking=True)


@contextmanager
def aside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Run a block on another stream, between what the current one did before and does afterwards."""
    if stream is None:
        yield
        return
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def capture(
    step: Callable[[], Tensor],
    stream: torch.cuda.Stream | None,
    generators: Sequence[torch.Generator],
    pool: Any = None,
) -> Callable[[], Tensor]:
    """Capture a step as a CUDA graph, which draws on from the generators in every replay. Nothing is computed.

    Without a stream, as on a CPU, return the step itself. If the capture fails, the generators continue as before.
    Graphs of one memory `pool` must not run at the same time.

    Raises:
        RuntimeError: the step does something that a graph cannot hold, such as waiting for the device.
    """
    if stream is None:
        return step
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(stream.device)
    drawn = [generator for generator in generators if generator.device.type == "cuda"]
    for generator in drawn:
        graph.register_generator_state(generator)
    drawn.append(torch.cuda.default_generators[stream.device_index])  # Every capture registers it.
    before = [generator.clone_state() for generator in drawn]
    try:
        # Other threads may call CUDA meanwhile, for example to pin the next batches.
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            loss = step()
    except RuntimeError:  # torch leaves the stream and the generators as they are in a capture.
        torch.cuda.set_stream(current)
        for generator, state in zip(drawn, before, strict=True):
            generator.graphsafe_set_state(state)
        raise

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def adamw(parameters: Iterable[Any], lr: float, graph: bool = False, **options: Any) -> torch.optim.AdamW:
    """Return a fused AdamW of parameters or groups of them. With `graph` on CUDA, a graph can hold its steps."""
    optimizer = torch.optim.AdamW(parameters, lr, fused=True, **options)
    if graph and optimizer.param_groups[0]["params"][0].device.type == "cuda":
        put_on_device(optimizer)
    return optimizer


def put_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Put the learning rate of each group on the device of its parameters, so that a graph reads it anew."""
    for group in optimizer.param_groups:  # One tensor for each group, since `share` makes the rates differ.
        group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
        group["capturable"] = True


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, times the group's `share` if it has one.

    A rate on the device is written without waiting for it.
    """
    for group in optimizer.param_groups:
        rate = lr * group.get("share", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
