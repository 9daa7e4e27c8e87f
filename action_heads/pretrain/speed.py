"""Measure the speed of a run, and that of its data source and of its training step alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from action_heads._util.training_step import WARM_UP
from action_heads.pretrain.batches import ahead

if TYPE_CHECKING:
    from action_heads.pretrain.trainer import Trainer


def measure(trainer: Trainer) -> dict[str, int | None]:
    """Return the chunks per second of all processes: in training, of the training step alone, and of the source alone.

    All processes call this together. It leaves the run unchanged.
    """
    config, trained = trainer.config, trainer.progress.training_seconds
    batch_size = config.optimiser.batch_size
    steps = len(trainer.head.config.mechanisms)  # one for each mechanism
    began = time.perf_counter()
    drawn = list(ahead(trainer.draw, range(max(5, 3 * config.workers)), config.workers))
    source = (time.perf_counter() - began) / len(drawn)
    batch = drawn[-1].to(trainer.accelerator.device)
    with untouched(trainer):
        for _ in range(2 * steps * (WARM_UP + 1) if trainer.take_step.replays else 1):  # each variant is captured
            trainer.train_step(batch)
        wait(trainer)
        began = time.perf_counter()
        for _ in range(steps):
            trainer.train_step(batch)
        wait(trainer)
        step = (time.perf_counter() - began) / steps
    return {
        "training": int(trainer.step * batch_size / trained) if trained else None,
        "step_alone": int(batch_size / step),
        "source_alone": int(batch_size / source),
    }


def wait(trainer: Trainer) -> None:
    """Wait until the device has finished its work."""
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Undo the training steps that are taken within this context."""
    step, tensors = trainer.step, {name: t.detach().clone() for name, t in trainer.state_dict().items()}
    try:
        yield
    finally:
        trainer.load_state_dict(tensors, step)
