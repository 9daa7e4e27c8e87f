"""Run Stage 1, from the first training step to the finished head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace

import torch

from action_heads import golden, head_file
from action_heads.head import ActionHead
from action_heads.io import drafts, files
from action_heads.pretrain import publish, report, speed
from action_heads.pretrain.settings import PretrainConfig
from action_heads.pretrain.trainer import Trainer
from action_heads.training import checkpoint, curve
from action_heads.training.accelerator import alone
from action_heads.training.loop import train

MADE = ("config.json", "model.safetensors", "README.md", ".README.md.old", golden.NAME, "curves.json", "curves.png")


def pretrain(config: PretrainConfig, command: str = "") -> ActionHead:
    """Start or resume a run, write the finished head to `config.folder`, and return it, frozen.

    Raises:
        ValueError: the folder holds a run or a finished head with other settings.
        InUse: another run writes to the folder. This is a ValueError too.
        Diverged: the loss is not finite, or far above that of a network that outputs zeros.
        KeyboardInterrupt: Ctrl-C or SIGTERM was received. The state is saved first; the same call resumes from it.
    """
    with alone(config.folder):
        trainer, folder = Trainer(config), config.folder / "state"
        if trainer.ema:  # the main process
            drafts.sweep(config.folder, MADE)
        checkpoint.begin(trainer, folder)
        checkpoint.resume(trainer, folder)
        trainer.accelerator.print(report.opening(trainer))
        if trainer.step < config.optimiser.steps:
            train(trainer, folder)
        return finish(trainer, command)


def finish(trainer: Trainer, command: str) -> ActionHead:
    """Write the averaged weights as the head, with a record of its training."""
    accelerator, out = trainer.accelerator, trainer.config.folder
    speeds = speed.measure(trainer)
    if trainer.ema:
        trainer.ema.copy_to_model()
        head = trainer.head
        head.config = replace(head.config, training=report.record(trainer, command, speeds))
        curves = {"train": trainer.progress.curve, "held_out": trainer.progress.held_out}
        contents, _ = head_file.contents(head, out, torch.bfloat16)
        contents |= golden.contents(rounded(contents)) | {"curves.json": (json.dumps(curves) + "\n").encode()}
        files.write_together(out, contents)
        curve.draw_curve(curves, out / "curves.png", head.config.name)
        saved = ActionHead.from_pretrained(out)
        publish.write_card(saved, out, saved.config.name)  # last, since the card shows the curve
    accelerator.wait_for_everyone()
    finished = ActionHead.from_pretrained(out)
    accelerator.print(report.closing(finished, out))
    accelerator.end_training()
    return finished


def rounded(contents: Mapping[str, bytes]) -> ActionHead:
    """Return the head in the files of a folder, which has shorter weights than the one in memory."""
    with tempfile.TemporaryDirectory() as folder:
        files.write_together(folder, contents)
        return ActionHead.from_pretrained(folder)
