"""What a policy was earlier in its training: a policy like any other, in a folder of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from action_heads.adapt.trainer import Trainer


def folder_of(out: Path, step: int) -> Path:
    """In the folder of a run."""
    return out / "checkpoints" / f"step-{step}"


def save(trainer: Trainer) -> None:
    """In the main process, with the averaged weights; of a copy, since a head that is saved is frozen."""
    assert trainer.ema
    with trainer.ema.averaged():
        policy = copy.deepcopy(trainer.policy)
    policy.training_record = {"settings": trainer.settings(), "step": trainer.step}
    policy.save(folder_of(trainer.config.out, trainer.step))
