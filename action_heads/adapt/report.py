"""What a run of Stage 2 says, and the README that it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from action_heads.adapt.settings import AdaptConfig
    from action_heads.adapt.trainer import Trainer
    from action_heads.observed_policy import ObservedPolicy


def opening(trainer: Trainer) -> str:
    """What is going to happen, where."""
    c, o, policy = trainer.config, trainer.config.optimiser, trainer.policy
    from_step = f", going on from step {trainer.step:,}" if trainer.step else ""
    seen = ", ".join([*policy.contract.sizes, *policy.contract.state]) or "the task's description alone"
    blind = " (blind: hidden)" if c.blind else ""
    tasks = trainer.windows.recording.tasks
    warning = ""
    if len(tasks) > 1 and not c.text.model:
        warning = f"{len(tasks)} tasks, and no description is read (--text): only what is seen tells them apart\n"
    out = f", {trainer.held_out.episodes} held out" if trainer.held_out else ""
    return (
        f"{policy.policy}\nsees {seen}{blind}; does {policy.layout}\n"
        f"{o.steps:,} steps of {o.batch_size:,} chunks of {trainer.windows.episodes} episodes{out}, "
        f"{trainer.machine}{from_step}\n"
        f"{warning}watch: tensorboard --logdir {c.folder / 'state' / 'tensorboard'}"
    )


def closing(policy: ObservedPolicy, config: AdaptConfig, results: dict[str, Any]) -> str:
    """Where everything lies."""
    held_out = results["held_out_loss"]
    said = "" if held_out is None else f", held-out {held_out:.4f}"
    return (
        f"\n{policy.policy}\ntraining loss {results['training_loss']:.4f}{said}\n"
        f"policy, curves.png, results.json and README.md are in {config.out}"
    )


def outcome(rollouts: dict[str, Any]) -> str:
    """Of rollouts, in a line."""
    low, high = rollouts["interval"]
    return (
        f"{rollouts['task']}: {rollouts['successes']} of {rollouts['episodes']} episodes succeed "
        f"(95 % interval {low:.0%} to {high:.0%})"
    )


def readme(config: AdaptConfig, results: dict[str, Any]) -> str:
    """What this policy is, how it was made, what it did, how it is loaded."""
    parts = "".join(
        f"| {name} | {count['frozen']:,} | {count['trained']:,} |\n" for name, count in results["parameters"].items()
    )
    held_out = results["held_out_loss"]
    losses = f"training loss {results['training_loss']:.4f}"
    losses += "" if held_out is None else f", of held-out episodes {held_out:.4f}"
    rollouts = results["rollouts"]
    tried = "Not rolled out.\n" if rollouts is None else outcome(rollouts) + ".\n"
    if rollouts and rollouts["video"]:
        tried += f"\n[Some of them]({rollouts['video']}): green border success, red failure.\n"
    effort = f"{config.optimiser.steps:,} steps of {config.optimiser.batch_size} chunks"
    kind = "" if config.mode == "decoupled" else f" A control: mode {config.mode}."
    kind += " A control: blind." if config.blind else ""
    episodes, where = results["episodes"], results["machine"]["gpu"] or results["machine"]["processor"]
    return f"""# {config.out.resolve().name}

A policy on the head `{config.head}`, taught by `action-heads adapt`.{kind}

```bash
{results["command"] or "(called from Python)"}
```

```python
from action_heads.adapt import AdaptedPolicy

policy = AdaptedPolicy.from_pretrained("{config.out}")
chunk = policy.sample(images, state, task)  # (b, h, columns of the recording's action)
```

| part | frozen | trained |
|---|---:|---:|
{parts}
{episodes["trained"]} episodes trained on, {episodes["held_out"]} held out. {effort}:
{losses}; {results["seconds"]:.0f} s on {where}.

![Loss over steps](curves.png)

## Rollouts

{tried}"""
