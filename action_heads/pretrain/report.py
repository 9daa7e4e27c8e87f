"""Texts and figures of a pretraining run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from action_heads.head import ActionHead
    from action_heads.pretrain.trainer import Trainer


def opening(trainer: Trainer) -> str:
    """Return the text printed before the first training step."""
    c, o, folder = trainer.config, trainer.config.optimiser, trainer.config.folder
    from_step = f", resumed from training step {trainer.step:,}" if trainer.step else ""
    logs = shlex.quote(str(folder / "state" / "tensorboard"))
    return (
        f"{trainer.head}\n{o.steps:,} training steps of {o.batch_size:,} chunks of {' + '.join(c.sources)}, "
        f"{trainer.machine}{from_step}\nwatch: tensorboard --logdir {logs}"
    )


def record(trainer: Trainer, command: str, speeds: dict[str, int | None]) -> dict[str, Any]:
    """Return the provenance of a head, for its config and card."""
    c, o = trainer.config, trainer.config.optimiser
    return {
        "command": command,
        "licence": c.licence,
        "data": list(c.sources),
        "credits": c.credits,
        "sources": trainer.sources,
        "signal": c.signal,
        "seed": c.seed,
        "steps": o.steps,
        "batch_size": o.batch_size,
        "chunks": o.steps * o.batch_size,
        "minutes": round(trainer.progress.seconds / 60, 1),
        "machine": trainer.machine,
        "chunks_per_second": speeds,
        "held_out_loss": round(trainer.evaluate_unconditional(), 5),
        "held_out_loss_with_signal": round(trainer.progress.held_out[-1][1], 5),
        "settings": trainer.settings(),
        "inputs": trainer.inputs,
    }


def closing(head: ActionHead, out: Path) -> str:
    """Return the text printed at the end: the files, and what to do next."""
    training = head.config.training
    rate = {name: "-" if value is None else f"{value:,}" for name, value in training["chunks_per_second"].items()}
    return (
        f"\n{head}\n"
        f"held-out loss {training['held_out_loss']:.4f} unconditional, "
        f"{training['held_out_loss_with_signal']:.4f} with the training signal\n"
        f"{rate['training']} chunks/s (training step alone {rate['step_alone']}, source alone {rate['source_alone']})\n"
        f"The head is in {out} and its curves are in {out / 'curves.png'}. Next:\n"
        f"    action-heads evaluate-head {shlex.quote(str(out))}"
    )
