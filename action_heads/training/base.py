"""A run as an object: what a stage's trainer is made of beside its modules and its data."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from action_heads.training import checkpoint

if TYPE_CHECKING:
    from action_heads._util.ema import EMA

B = TypeVar("B")


class Training(Generic[B]):
    """The state of one run, in each of its processes; average and history are the main process' alone.

    A stage fills these attributes and says what a batch, a step and an evaluation are.
    """

    description: ClassVar[str] = "training"
    config: Any  # optimiser, save_every, folder, precision, outcome()
    accelerator: Any
    parameters: list[nn.Parameter]
    buffers: tuple[Tensor, ...] = ()  # what training changes beside the parameters
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    step: int
    progress: checkpoint.Progress

    def coming(self) -> Generator[B]:
        """The batches from this step to the last, made while others are trained on."""
        raise NotImplementedError

    def train_step(self, batch: B) -> Tensor:
        """One optimiser step. Returns the loss (scalar) of this process' part."""
        raise NotImplementedError

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.config.optimiser.learning_rate(step)

    def evaluate(self) -> float | None:
        """Loss of the averaged weights on what is held out, if anything is."""
        raise NotImplementedError

    @property
    def share(self) -> int:
        """Chunks of a step that this process trains on."""
        return self.config.optimiser.batch_size // self.accelerator.num_processes

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, ready for JSON."""
        return self.config.outcome() | {"processes": self.accelerator.num_processes}

    @property
    def machine(self) -> str:
        """Precision, device and processes, in words."""
        a = self.accelerator
        device = torch.cuda.get_device_name() if a.device.type == "cuda" else f"{a.device.type}"
        several = f", {a.num_processes} processes" if a.num_processes > 1 else ""
        return f"{'bf16' if a.mixed_precision == 'bf16' else 'fp32'} on {device}{several}"

    def descend(self, loss: Tensor) -> Tensor:
        """Gradients of a loss (scalar), one step of the optimiser and of the average; the loss, detached."""
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters, self.config.optimiser.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update()
        self.step += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Tensor]:
        optimizer = self.optimizer.state_dict()["state"]
        tensors: dict[str, Tensor] = {f"parameters.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"buffers.{i}": buffer for i, buffer in enumerate(self.buffers)}
        tensors |= {f"ema.{i}": p for i, p in enumerate(self.ema.average if self.ema else ())}
        tensors |= {f"optimizer.{i}.{key}": value for i, values in optimizer.items() for key, value in values.items()}
        return tensors

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], step: int) -> None:
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
            if name.startswith("optimizer."):  # parameters that had no gradient yet have no state
                _, i, key = name.split(".")
                optimizer["state"].setdefault(int(i), {})[key] = value
        self.optimizer.load_state_dict(optimizer)
        self.step = step
