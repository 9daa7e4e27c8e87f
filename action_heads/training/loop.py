"""The training loop of both stages: train, report, save, and stop on request or when the loss diverges."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from action_heads._util.progress import progress_bar
from action_heads.fit import Diverged
from action_heads.training import checkpoint
from action_heads.training.base import Training
from action_heads.training.signals import StopRequest

# Training steps between two reads of the loss on an accelerator. Each read waits for the device to finish its work.
READ_EVERY = 25
HOPELESS = 10.0  # average loss; a network that outputs zeros scores about 1


def train(trainer: Training, folder: Path) -> None:
    """Train to the last step, and save the training state at regular intervals.

    Raises:
        Diverged: the loss is not finite, or far above that of a network that outputs zeros.
        KeyboardInterrupt: Ctrl-C or SIGTERM was received. The state is saved first; the same call resumes from it.
    """
    config, accelerator = trainer.config, trainer.accelerator
    o = config.optimiser
    if o.warmup >= o.steps:
        accelerator.print(
            f"The warm-up of {o.warmup} training steps does not end in the {o.steps} of this run: the learning rate "
            f"stays below {o.steps / o.warmup:.0%} of --lr. Lower --warmup, or raise --steps"
        )
    read_every = 1 if accelerator.device.type == "cpu" else READ_EVERY
    # A killed run may have logged points after its last saved state. They are logged again, so the old ones are purged.
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": trainer.step}})
    bar = progress_bar(
        total=config.optimiser.steps,
        initial=trainer.step,
        desc=trainer.description,
        unit="step",
        disable=not accelerator.is_main_process,
    )
    losses: list[Tensor] = []
    began, first = time.monotonic(), trainer.step
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
                    show(trainer, bar, (trainer.step - first) / max(time.monotonic() - began, 1e-9))
                if due or stopping:
                    trainer.progress.training_seconds += time.monotonic() - began
                    keep(trainer, folder, evaluate=due, began=began)
                    began, first = time.monotonic(), trainer.step
                if stopping and trainer.step < config.optimiser.steps:
                    bar.close()
                    accelerator.print(
                        f"\nStopped after training step {trainer.step} of {config.optimiser.steps}. The state is saved "
                        f"in {folder}; run the same command again to resume"
                    )
                    raise KeyboardInterrupt
        finally:
            for tracker in accelerator.trackers:  # they write in the background, so wait for them
                tracker.finish()


def show(trainer: Training, bar, steps_per_second: float) -> None:
    """Show loss and speed on the progress bar and in TensorBoard."""
    loss, rate = trainer.progress.average, int(trainer.config.optimiser.batch_size * steps_per_second)
    bar.set_postfix_str(f"loss {loss:.4f}, {rate:,} chunks/s", refresh=False)
    lr = trainer.learning_rate(trainer.step - 1)
    trainer.accelerator.log({"loss": loss, "learning_rate": lr, "chunks_per_second": rate}, trainer.step)


def keep(trainer: Training, folder: Path, evaluate: bool, began: float) -> None:
    """Save the state in the main process, with the time since `began` and, if asked, the held-out loss."""
    if trainer.accelerator.is_main_process:
        if evaluate and (loss := trainer.evaluate()) is not None:
            trainer.progress.held_out.append((trainer.step, loss))
            trainer.accelerator.log({"held_out_loss": loss}, trainer.step)
        trainer.progress.seconds += time.monotonic() - began
        checkpoint.save(trainer, folder)


def look(trainer: Training, losses: list[Tensor], asked: bool) -> bool:
    """Record the losses of the last steps, averaged over processes. Return whether any process was asked to stop.

    One reduction carries both, so all processes stop at the same step.
    """
    flag = torch.tensor(float(asked), device=trainer.accelerator.device)
    *values, asked_any = trainer.accelerator.reduce(torch.stack([*losses, flag]), "mean").tolist()
    for step, loss in enumerate(values, trainer.step - len(losses) + 1):
        trainer.progress.add(step, loss)
        average = trainer.progress.average or 0.0
        if not abs(loss) < float("inf") or (step > trainer.config.optimiser.warmup and average > HOPELESS):
            raise Diverged(diverged(trainer, folder=trainer.config.folder / "state", step=step, loss=loss))
    return asked_any > 0


def diverged(trainer: Training, folder: Path, step: int, loss: float) -> str:
    """Return the message of a run whose loss diverged."""
    o, saved = trainer.config.optimiser, checkpoint.read(folder)
    kept = f"The last good state, of training step {saved['step']}, is in {folder}" if saved else "No state was saved"
    precision = ", --precision fp32" if trainer.accelerator.mixed_precision == "bf16" else ""
    return (
        f"training diverged: the loss of training step {step} is {loss:.4g} and its running average "
        f"{trainer.progress.average:.4g}. A network that outputs zeros has a loss of about 1. {kept}. "
        f"Start a new run with another --out and an --lr below {o.lr:g} or a --warmup above {o.warmup}{precision}. "
        "If that does not help, look for NaN or wrong units in the data"
    )
