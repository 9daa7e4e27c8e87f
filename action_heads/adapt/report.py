"""The printed texts of a Stage 2 run, and the README in its folder."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from action_heads.adapt.settings import AdaptConfig
    from action_heads.adapt.trainer import Trainer
    from action_heads.observed_policy import ObservedPolicy


MEMORY = (("gpu_mb", "GPU memory"), ("ram_mb", "memory"))


def opening(trainer: Trainer) -> str:
    """Return the text printed before training."""
    c, o, policy = trainer.config, trainer.config.optimiser, trainer.policy
    from_step = f", resuming at step {trainer.step:,}" if trainer.step else ""
    seen = ", ".join([*policy.contract.sizes, *policy.contract.state]) or "the description of the task only"
    blind = " (blind: images are grey; without cameras the state is zero)" if c.blind else ""
    tasks = trainer.windows.recording.tasks
    warning = ""
    if len(tasks) > 1 and not policy.encoder.reads_task:
        warning = f"{len(tasks)} tasks, and the policy reads no description: it can tell them apart only by "
        warning += "what it observes. To train on the descriptions, set --text\n"
    if c.graph and trainer.encodes:
        warning += (
            f"training without CUDA graphs, since {trainer.encodes} encodes images or words in each training step\n"
        )
    out = f", {trainer.held_out.episodes} held out" if trainer.held_out else ""
    logs = shlex.quote(str(c.folder / "state" / "tensorboard"))
    return (
        f"{policy.policy}\nobserves {seen}{blind}; actions are {policy.layout}\n"
        f"{o.steps:,} training steps of {o.batch_size:,} chunks from {trainer.windows.episodes} episodes{out}, "
        f"{trainer.machine}{from_step}\n"
        f"{warning}progress: tensorboard --logdir {logs}"
    )


def closing(policy: ObservedPolicy, config: AdaptConfig, results: dict[str, Any]) -> str:
    """Return the text printed after training."""
    held_out = results["held_out_loss"]
    said = "" if held_out is None else f", held-out {held_out:.4f}"
    return (
        f"\n{policy.policy}\ntraining loss {results['training_loss']:.4f}{said}; {effort(results)}\n"
        f"policy, curves.png, results.json and README.md are in {config.out}"
    )


def effort(results: dict[str, Any]) -> str:
    """Return speed and memory of the training."""
    memory = [f"{results['memory'][key] / 1e3:,.2f} GB of {name}" for key, name in MEMORY if results["memory"][key]]
    return f"{results['steps_per_second']:,.2f} training steps per second, {', '.join(memory)}"


def outcome(rollouts: dict[str, Any]) -> str:
    """Return the outcome of the rollouts in one line."""
    low, high = rollouts["interval"]
    return (
        f"{rollouts['task']}: {rollouts['successes']} of {rollouts['episodes']} episodes succeed "
        f"(95 % interval {low:.0%} to {high:.0%})"
    )


def readme(config: AdaptConfig, results: dict[str, Any]) -> str:
    """Return the README of a policy: how to load it, how it was trained, and how it performed."""
    parts = "".join(
        f"| {name} | {count['frozen']:,} | {count['trained']:,} |\n" for name, count in results["parameters"].items()
    )
    held_out = results["held_out_loss"]
    losses = f"training loss {results['training_loss']:.4f}"
    losses += "" if held_out is None else f", held-out loss {held_out:.4f}"
    rollouts = results["rollouts"]
    tried = "The policy was not rolled out.\n" if rollouts is None else outcome(rollouts) + ".\n"
    if rollouts and rollouts["video"]:
        tried += f"\n[Video of some episodes]({rollouts['video']}): a green border marks success, a red one failure.\n"
    steps = f"{config.optimiser.steps:,} training steps of {config.optimiser.batch_size} chunks"
    kind = "" if config.mode == "decoupled" else f" It is a control run: mode {config.mode}."
    if config.blind:
        kind += " It is a blind control run: its images are grey, or without cameras its state is zero."
    vlm, eyes = config.vlm, ""
    if vlm.model is not None:
        layers = ", ".join(map(str, vlm.layer))
        eyes = f"\n\nIt observes through layer {layers} of `{vlm.model}` (training: {vlm.train}). Those of its weights"
        eyes += " that did not train are not in this folder: a pointer and a fingerprint are in policy.json."
    episodes, where = results["episodes"], results["machine"]["gpu"] or results["machine"]["processor"]
    return f"""# {config.out.resolve().name}

A policy on the head `{config.head}`, trained by `action-heads adapt`.{kind}{eyes}

```bash
{results["command"] or "(called from Python)"}
```

```python
from action_heads import ObservedPolicy

policy = ObservedPolicy.from_pretrained("{config.out}")
chunk = policy.sample(images, state, task)  # (b, h, columns of the recording's action)
```

| part | frozen | trained |
|---|---:|---:|
{parts}
Trained on {episodes["trained"]} episodes, with {episodes["held_out"]} held out. {steps}:
{losses}; {results["seconds"]:.0f} s on {where}; {effort(results)}.

![Loss by training step](curves.png)

## Rollouts

{tried}"""
