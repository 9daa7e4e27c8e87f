"""The base class of the trainers of both stages."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from action_heads._util.training_step import TrainingStep, set_learning_rate
from action_heads.ema import EMA
from action_heads.training import checkpoint
from action_heads.training.streams import seed_of

B = TypeVar("B")


class Training(Generic[B]):
    """The state of one run in each of its processes. Only the main process has the average and the history.

    A stage sets the attributes up to `optimizer`, calls `begin` for the others, and implements the batches, the
    training step and the evaluation.
    """

    description: ClassVar[str] = "training"
    config: Any  # optimiser, save_every, folder, precision, outcome()
    accelerator: Any
    model: nn.Module  # the loss of a batch and of `noise`, prepared by the accelerator
    inputs: dict[str, str]  # a hash of each file's content that the run reads, by the flag that names it
    parameters: list[nn.Parameter]
    buffers: tuple[Tensor, ...] = ()  # other tensors that training changes
    optimizer: torch.optim.Optimizer
    noise: torch.Generator  # seeded anew for each training step
    take_step: TrainingStep  # loss, gradient, clipping and the update of the weights
    ema: EMA | None
    step: int
    progress: checkpoint.Progress

    def begin(self, graph: bool) -> None:
        """Set up the training step, with CUDA graphs if `graph`, the average and the history."""
        optimiser = self.config.optimiser
        self.noise = torch.Generator(self.accelerator.device)  # a graph always draws from the same generator
        loss = partial(self.model, noise=self.noise)  # not a method: a cycle would keep the data open
        self.take_step = TrainingStep(loss, self.optimizer, optimiser.clip, [self.noise], graph)
        self.ema = EMA(self.parameters, max_decay=optimiser.ema) if self.accelerator.is_main_process else None
        self.step = 0
        self.progress = checkpoint.Progress()

    def coming(self) -> Generator[B]:
        """Yield the batches from this training step to the last. Workers make them ahead."""
        raise NotImplementedError

    def train_step(self, batch: B) -> Tensor:
        """Take one training step. Return the loss (scalar) of this process's part of the batch."""
        raise NotImplementedError

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a training step."""
        return self.config.optimiser.learning_rate(step)

    def evaluate(self) -> float | None:
        """Return the loss of the averaged weights on held-out data, or None without any."""
        raise NotImplementedError

    @property
    def share(self) -> int:
        """Return the number of chunks that this process trains on in a training step."""
        return self.config.optimiser.batch_size // self.accelerator.num_processes

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the outcome, ready for JSON."""
        return self.config.outcome() | {"processes": self.accelerator.num_processes}

    @property
    def machine(self) -> str:
        """Return precision, device, number of processes and whether CUDA graphs are replayed as text."""
        a = self.accelerator
        device = torch.cuda.get_device_name() if a.device.type == "cuda" else f"{a.device.type}"
        several = f", {a.num_processes} processes" if a.num_processes > 1 else ""
        graphs = ", CUDA graphs" if self.take_step.replays else ""
        return f"{'bf16' if a.mixed_precision == 'bf16' else 'fp32'} on {device}{several}{graphs}"

    def descend(self, *batch: Any) -> Tensor:
        """Update weights and average by what `take_step` takes, and return the loss (scalar) detached."""
        self.noise.manual_seed(seed_of("noise", self.config.seed, self.step, self.accelerator.process_index))
        set_learning_rate(self.optimizer, self.learning_rate(self.step))
        loss = self.take_step(*batch)
        if self.ema:
            self.ema.update()
        self.step += 1
        return loss

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters, buffers, average and optimizer state by name."""
        optimizer = self.optimizer.state_dict()["state"]
        tensors: dict[str, Tensor] = {f"parameters.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"buffers.{i}": buffer for i, buffer in enumerate(self.buffers)}
        tensors |= {f"ema.{i}": p for i, p in enumerate(self.ema.average if self.ema else ())}
        tensors |= {f"optimizer.{i}.{key}": value for i, values in optimizer.items() for key, value in values.items()}
        return tensors

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], step: int) -> None:
        """Load the tensors of `state_dict`, and continue from training step `step`."""
        for i, p in enumerate(self.parameters):
            p.copy_(tensors[f"parameters.{i}"])
        for i, buffer in enumerate(self.buffers):
            buffer.copy_(tensors[f"buffers.{i}"])
        if self.ema:
            for i, average in enumerate(self.ema.average):
                average.copy_(tensors[f"ema.{i}"])
            self.ema.updates = step
        self.optimizer.state.clear()
        optimizer = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):  # a parameter without a gradient so far has no state
                _, i, key = name.split(".")
                optimizer["state"].setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict(optimizer)
        self.step = step
