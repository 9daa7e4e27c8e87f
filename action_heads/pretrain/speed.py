"""The parts of a run's speed: the source alone, and the optimiser step alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from action_heads.pretrain.batches import ahead

if TYPE_CHECKING:
    from action_heads.pretrain.trainer import Trainer


def measure(trainer: Trainer) -> dict[str, int | None]:
    """Chunks a second of all processes: while training, and with loading and training each alone.

    All processes call this together. The run is as before afterwards.
    """
    config, trained = trainer.config, trainer.progress.training_seconds
    batch_size = config.optimiser.batch_size
    steps = len(trainer.head.config.mechanisms)  # one turn of each
    began = time.perf_counter()
    drawn = list(ahead(trainer.draw, range(max(5, 3 * config.workers)), config.workers))
    source = (time.perf_counter() - began) / len(drawn)
    batch = drawn[-1].to(trainer.accelerator.device)
    with untouched(trainer):
        trainer.train_step(batch)  # warm
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
    """Until the device has done what it was told."""
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Undo the training steps that are taken inside the block."""
    step, tensors = trainer.step, {name: t.detach().clone() for name, t in trainer.state_dict().items()}
    try:
        yield
    finally:
        trainer.load_state_dict(tensors, step)
