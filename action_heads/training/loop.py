"""The loop of a run: trains, shows, saves, stops when asked or when there is no sense in going on."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads.training import checkpoint
from action_heads.training.base import Training
from action_heads.training.signals import StopRequest

READ_EVERY = 25  # steps between looks at the loss on an accelerator, which has to finish its work for each
HOPELESS = 10.0  # average loss; a network that says nothing scores about 1


class Diverged(RuntimeError):
    """Training came to nothing: the message says at which step and what to change."""


def train(trainer: Training, folder: Path) -> None:
    """To the last step, with a saved state every so often.

    Raises:
        Diverged: the loss is not finite, or far beyond what saying nothing would cost.
        KeyboardInterrupt: a Ctrl-C or SIGTERM, once the state is complete; the same call goes on from there.
    """
    config, accelerator = trainer.config, trainer.accelerator
    read_every = 1 if accelerator.device.type == "cpu" else READ_EVERY
    # Points that a killed run has logged beyond its last state are going to be logged again.
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": trainer.step}})
    bar = require("tqdm.auto", "train").tqdm(
        **{"total": config.optimiser.steps, "initial": trainer.step, "desc": trainer.description, "unit": "step"},
        disable=not accelerator.is_main_process,
    )
    losses: list[Tensor] = []
    began = time.monotonic()
    with closing(trainer.coming()) as batches, StopRequest(insist=accelerator.num_processes == 1) as stop, bar:
        try:
            for batch in batches:
                losses.append(trainer.train_step(batch))
                bar.update()
                due = trainer.step % config.save_every == 0 or trainer.step == config.optimiser.steps
                if not due and trainer.step % read_every:
                    continue
                stopping = look(trainer, losses, stop.asked)
                losses.clear()
                if trainer.step % checkpoint.POINT_EVERY == 0:
                    show(trainer, bar)
                if due or stopping:
                    trainer.progress.training_seconds += time.monotonic() - began
                    keep(trainer, folder, evaluate=due, began=began)
                    began = time.monotonic()
                if stopping and trainer.step < config.optimiser.steps:
                    bar.close()
                    accelerator.print(interrupted(trainer, folder))
                    raise KeyboardInterrupt
        finally:
            for tracker in accelerator.trackers:  # they write in the background
                tracker.finish()


def show(trainer: Training, bar) -> None:
    """Loss and speed, on the bar and to TensorBoard."""
    loss, rate = trainer.progress.average, int(trainer.config.optimiser.batch_size * (bar.format_dict["rate"] or 0))
    bar.set_postfix_str(f"loss {loss:.4f}, {rate:,} chunks/s")
    lr = trainer.learning_rate(trainer.step - 1)
    trainer.accelerator.log({"loss": loss, "learning_rate": lr, "chunks_per_second": rate}, trainer.step)


def keep(trainer: Training, folder: Path, evaluate: bool, began: float) -> None:
    """Save the state, in the main process, with what has gone on since `began`, and the held-out loss where asked."""
    if trainer.accelerator.is_main_process:
        if evaluate and (loss := trainer.evaluate()) is not None:
            trainer.progress.held_out.append((trainer.step, loss))
            trainer.accelerator.log({"held_out_loss": loss}, trainer.step)
        trainer.progress.seconds += time.monotonic() - began
        checkpoint.save(trainer, folder)


def look(trainer: Training, losses: list[Tensor], asked: bool) -> bool:
    """Note the losses of the last steps, averaged over processes; whether any process was asked to stop.

    One message for both, so that all processes stop at the same step.
    """
    flag = torch.tensor(float(asked), device=trainer.accelerator.device)
    *values, asked_any = trainer.accelerator.reduce(torch.stack([*losses, flag]), "mean").tolist()
    for step, loss in enumerate(values, trainer.step - len(losses) + 1):
        trainer.progress.add(step, loss)
        average = trainer.progress.average or 0.0
        if not abs(loss) < float("inf") or (step > trainer.config.optimiser.warmup and average > HOPELESS):
            raise Diverged(diverged(trainer, folder=trainer.config.folder / "state", step=step, loss=loss))
    return asked_any > 0


def interrupted(trainer: Training, folder: Path) -> str:
    """After a Ctrl-C."""
    return (
        f"\nstopped after step {trainer.step} of {trainer.config.optimiser.steps}; {folder} is complete: "
        "give the same command to go on"
    )


def diverged(trainer: Training, folder: Path, step: int, loss: float) -> str:
    """After a loss that nothing can come of."""
    o, saved = trainer.config.optimiser, checkpoint.read(folder)
    kept = f"The last good state, of step {saved['step']}, is in {folder}" if saved else "No state was saved yet"
    precision = ", --precision fp32" if trainer.accelerator.mixed_precision == "bf16" else ""
    return (
        f"training diverged: the loss of step {step} is {loss:.4g}, its running average "
        f"{trainer.progress.average:.4g}, where about 1 is what a network that says nothing scores. {kept}. "
        f"Start anew, with another --out, a lower --lr than {o.lr:g} or a longer --warmup than {o.warmup}{precision}; "
        "if that does not help, look for NaN or wrong units in the data"
    )
