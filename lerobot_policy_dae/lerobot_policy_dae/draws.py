"""Random numbers of training under LeRobot, by seed, training step and process, as `action-heads adapt` draws them.

LeRobot gives all processes the same seed, and gives a policy neither the training step nor a generator. With torch's
own generator, every process would draw the same noise, and noise would depend on the preceding augmentation.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import distributed

from action_heads.training.streams import generator, seeded
from lerobot_policy_dae.configuration_dae import DAEConfig


class Draws:
    """The generators of a policy's training batches.

    The config counts the batches and is saved with a checkpoint, so a resumed run draws the same numbers as one that
    was not interrupted. The seed is LeRobot's own (`--seed`), read from torch's generator when training begins.
    """

    def __init__(self, config: DAEConfig):
        self.config = config
        self.seed: int | None = None
        self.evaluated = 0  # batches of evaluation since the last training batch

    def next(self, training: bool, device: torch.device) -> tuple[torch.Generator, AbstractContextManager[None]]:
        """Return the generator of a batch's noise and a context in which torch draws augmentation and dropout."""
        seed = self.seed = torch.initial_seed() if self.seed is None else self.seed
        at = (seed, self.config.noise_step, process())
        if not training:
            self.evaluated += 1
            return generator("held-out noise", *at, self.evaluated, device=device), nullcontext()
        self.config.noise_step += 1
        self.evaluated = 0
        return generator("noise", *at, device=device), seeded(generator("augmentation", *at).initial_seed(), device)


def process() -> int:
    """Return the rank of this process among those that train together."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
