"""Run Stage 2: training, the finished policy, and its rollouts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from action_heads import adapter_file
from action_heads._util.machine import machine, peak_memory
from action_heads.adapt import evaluator, report
from action_heads.adapt.settings import AdaptConfig
from action_heads.adapt.trainer import Trainer
from action_heads.io import drafts, files
from action_heads.observed_policy import ObservedPolicy
from action_heads.observed_policy_file import CONFIG, ENCODER, HEAD
from action_heads.pointer import fingerprint_in
from action_heads.training import checkpoint, curve
from action_heads.training.accelerator import alone
from action_heads.training.loop import train

MADE = (CONFIG, ENCODER, adapter_file.NAME, "curves.json", "curves.png", "results.json", "README.md", "rollouts.mp4")
HEAD_MADE = ("config.json", "model.safetensors", "README.md")


def adapt(config: AdaptConfig, command: str = "") -> ObservedPolicy:
    """Train a policy on a recording, or resume training, and roll it out if a task is given.

    Policy, curves, results and a README are written to `config.out`.

    Args:
        config: the settings.
        command: the command line, which is recorded.

    Returns:
        The trained policy, loaded from `config.out`.

    Raises:
        ValueError: the settings do not fit the data, or the folder holds a run of other settings.
        InUse: another run writes to the folder. It is a ValueError.
        Diverged: the loss is not finite, or far above that of a network that outputs zeros.
        KeyboardInterrupt: Ctrl-C or SIGTERM was received. The state is saved first; the same call resumes from it.

    Examples:
        ```python
        from pathlib import Path

        from action_heads.adapt.run import adapt
        from action_heads.adapt.settings import AdaptConfig

        policy = adapt(AdaptConfig(data="lerobot:data/lift", out=Path("runs/lift")))
        ```
    """
    with alone(config.folder):
        folder = config.folder / "state"
        if checkpoint.begun(folder) is None:  # A run that an older release began may have flags without effect.
            config.check_effective()
        trainer = Trainer(config)
        if config.rollout.task:
            evaluator.find().check_task(config, trainer.policy)
        if trainer.ema:
            tidy(config.out)
        checkpoint.begin(trainer, folder)
        checkpoint.resume(trainer, folder)
        trainer.accelerator.print(report.opening(trainer))
        if trainer.step < config.optimiser.steps:
            train(trainer, folder)
        if trainer.ema:
            finish(trainer, command)
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
        if trainer.ema and config.rollout.task:  # rollouts take long, so the other processes end before them
            try_out(trainer)
        return ObservedPolicy.from_pretrained(config.out, device=trainer.accelerator.device)


def tidy(out: Path) -> None:
    """Remove the unfinished files that killed runs have left of a policy and its checkpoints."""
    for folder in (out, *out.glob("checkpoints/step-*")):
        drafts.sweep(folder, MADE)
        drafts.sweep(folder / HEAD, HEAD_MADE)


def finish(trainer: Trainer, command: str) -> None:
    """Save the policy with the averaged weights, its curves and its results. The main process does this."""
    config, policy, out = trainer.config, trainer.policy, trainer.config.out
    assert trainer.ema
    trainer.ema.copy_to_model()
    policy.eval().policy.head.freeze()  # A head that trained along is finished, and the rollouts compute less.
    held_out = trainer.held_out.episodes if trainer.held_out else 0
    record = {
        "command": command,
        **trainer.counts,
        "episodes": {"trained": trainer.windows.episodes, "held_out": held_out},
        "windows": len(trainer.windows),
        "training_loss": trainer.progress.average,
        "held_out_loss": trainer.progress.held_out[-1][1] if trainer.progress.held_out else None,
        "seconds": round(trainer.progress.seconds, 1),
        "steps_per_second": round(trainer.step / max(trainer.progress.training_seconds, 1e-9), 2),
        "memory": peak_memory(),
        "machine": machine() | {"training": trainer.machine},
        "settings": trainer.settings(),
        "inputs": trainer.inputs,
    }
    policy.training_record = record
    before = fingerprint_in(out, CONFIG)
    policy.save(out)
    curves = {"train": trainer.progress.curve, "held_out": trainer.progress.held_out}
    files.write_text(out / "curves.json", json.dumps(curves) + "\n")
    curve.draw_curve(curves, out / "curves.png", out.resolve().name)
    now = fingerprint_in(out, CONFIG)
    results: dict[str, Any] = record | {"fingerprint": now, "rollouts": earlier(out, now, before)}
    write(config, results)
    trainer.accelerator.print(report.closing(policy, config, results))


def try_out(trainer: Trainer) -> None:
    """Roll out the finished policy, and add the outcome to its results."""
    config = trainer.config
    results = files.read_json(config.out / "results.json")
    results["rollouts"] = asdict(evaluator.find().roll_out(config, trainer.policy))
    write(config, results)
    trainer.accelerator.print(report.outcome(results["rollouts"]))


def write(config: AdaptConfig, results: dict[str, Any]) -> None:
    """Write the results as JSON and as a README."""
    texts = {"results.json": json.dumps(results, indent=2) + "\n", "README.md": report.readme(config, results)}
    files.write_texts(config.out, texts)


def earlier(out: Path, now: str | None, before: str | None) -> dict[str, Any] | None:
    """Return the earlier rollouts of these weights, which a call without --task keeps, or None.

    Args:
        out: the folder.
        now: the fingerprint of the policy.
        before: that of the policy which was in the folder. Results of older releases do not say which policy they are
            of, so they count as those of this one.
    """
    path = out / "results.json"
    results = files.read_json(path) if path.exists() else {}
    return results.get("rollouts") if now and results.get("fingerprint", before) == now else None
