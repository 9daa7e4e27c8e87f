"""Train runs on states, by `fit` on arrays, and keep the weights of every checkpoint.

Axes: n samples, d state, h horizon, a action.
"""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from action_heads import ActionHead
from action_heads.adapters.config import AdapterConfig
from action_heads.fit import FitConfig, fit
from action_heads.io import files
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab.policies import on_states
from action_heads_lab.reproduce.config import Place, Run
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.results import PROGRESS, Progress, cpu_seconds
from action_heads_lab.sim.report import smooth


def build(run: Run, pretrained: ActionHead, state: Tensor, actions: Tensor) -> ObservedPolicy:
    """Return the policy before training, with the statistics of states (n d) and actions (n h a)."""
    adapter = AdapterConfig(run.adapter, hidden_dim=run.hidden, relearn_step=run.relearn_step, through=run.through)
    head = pretrained.in_mode(run.head_mode, seed=run.seed)
    return on_states(head, adapter, state, actions, run.seed, blind=run.mode == "blind")


def learn(run: Run, place: Place, head: ActionHead, folder: Path) -> tuple[ObservedPolicy, Progress]:
    """Train, unless the run has trained already, and return the policy with the run's progress.

    The weights of all checkpoints are saved in the folder.
    """
    state, actions, is_pad = family_of(run).samples(run, place, head.config.horizon)
    policy = build(run, head, state, actions)
    if (folder / PROGRESS).exists():
        return policy.eval(), Progress.load(folder / PROGRESS)
    began, cpu = time.monotonic(), cpu_seconds()
    losses = fit(
        policy.policy,
        actions,
        policy.condition(state=state[:, None]),
        is_pad=is_pad,
        config=FitConfig(
            steps=run.steps, batch_size=run.batch_size, lr=run.lr, seed=run.seed, noise_samples=run.noise_samples
        ),
        description=f"{run}: training",
        keep=lambda step: files.save_tensors(policy.policy.state_dict(), _weights(folder, step)),
        keep_at=run.checkpoint_steps,
    )
    seconds = time.monotonic() - began, cpu_seconds() - cpu
    return policy, Progress.begin(folder / PROGRESS, *seconds, smooth(losses))


def after(policy: ObservedPolicy, folder: Path, step: int, run: Run) -> ObservedPolicy:
    """Load the weights of a training step into the policy, and return it."""
    policy.policy.load_state_dict(files.load_tensors(_weights(folder, step))[0])
    return policy


def _weights(folder: Path, step: int) -> Path:
    return folder / f"policy-{step}.safetensors"
