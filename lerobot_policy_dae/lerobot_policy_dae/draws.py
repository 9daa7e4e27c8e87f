"""Random numbers of training under LeRobot, by seed, step and process, as `action-heads adapt` draws them.

LeRobot seeds all processes alike and hands a policy neither its step nor a generator. From torch's own generator, every
process would then draw the same noise, and noise would depend on what augmentation drew before it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import distributed

from action_heads.training.streams import generator, seeded
from lerobot_policy_dae.configuration_dae import DAEConfig


class Draws:
    """Counts the batches of training in the config, which a checkpoint holds: a resumed run draws what it would have.

    The seed is LeRobot's own (`--seed`), which is the one of torch's generator when training begins.
    """

    def __init__(self, config: DAEConfig):
        self.config = config
        self.seed: int | None = None
        self.evaluated = 0  # batches since the last one of training

    def next(self, training: bool, device: torch.device) -> tuple[torch.Generator, AbstractContextManager[None]]:
        """Return the generator of a batch's noise and a context in which torch's CPU generator draws augmentation."""
        seed = self.seed = torch.initial_seed() if self.seed is None else self.seed
        at = (seed, self.config.noise_step, process())
        if not training:
            self.evaluated += 1
            return generator("held-out noise", *at, self.evaluated, device=device), nullcontext()
        self.config.noise_step += 1
        self.evaluated = 0
        return generator("noise", *at, device=device), seeded(generator("augmentation", *at).initial_seed())


def process() -> int:
    """Return the rank of this process among those that train together."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
