"""Train policies on conditions that a frozen encoder gave once, for the studies of images.

Axes: N rows, c condition, h horizon, a action.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from common import check_inputs
from torch import Tensor

from action_heads import ActionHead, Normalizer
from action_heads.adapters.config import AdapterConfig
from action_heads.fit import FitConfig, fit
from action_heads.observed_policy import ObservedPolicy


class Training(Protocol):
    """The settings of a training run. `blind` is the mode decoupled with a condition that does not depend on images."""

    @property
    def mode(self) -> str: ...
    @property
    def through(self) -> str: ...
    @property
    def hidden(self) -> int | None: ...
    @property
    def lr(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def per_step(self) -> bool: ...


def first_episodes(episode: np.ndarray, demos: int, place: Path) -> np.ndarray:
    """Return which rows (N,) of a recording are of its first demonstrations, given the episode of each row (N,).

    The first demonstrations of a recording are a smaller recording. A row of results names their number, so a
    recording that has fewer ends the program.
    """
    if (found := len(np.unique(episode))) < demos:
        raise SystemExit(
            f"{place} has {found} demonstrations, but {demos} are to be trained on. Remove it, and record at least "
            f"{demos} there with `action-heads record`, as --help shows."
        )
    return episode < demos


def trained(
    run: Training,
    head: str,
    template: ObservedPolicy,
    cond: Tensor,
    blind: Tensor,
    actions: Tensor,
    is_pad: Tensor,
    place: Path,
    inputs: Mapping[str, str],
) -> ObservedPolicy:
    """Train a policy and save it, or load it if a killed run has saved it. `training_record` holds its costs.

    Args:
        run: its settings.
        head: name of its head.
        template: a policy with the same encoder and contract.
        cond: conditions (N c), whose statistics the adapter takes in every mode.
        blind: conditions (N c) to train on in the mode blind.
        actions: chunks (N h a).
        is_pad: whether a time step lies behind the end of its episode (N h).
        place: folder of the policy.
        inputs: a hash of all that conditions and chunks were read from, see `check_inputs`.
    """
    if (place / "policy.json").exists():
        observed = ObservedPolicy.from_pretrained(place)
        check_inputs(f"the policy in {place}", observed.training_record, inputs, f"delete {place} to train it anew")
        return observed
    is_blind = run.mode == "blind"
    made = ActionHead.from_pretrained(head).in_mode("decoupled" if is_blind else run.mode, seed=run.seed)
    torch.manual_seed(run.seed)
    settings = AdapterConfig("adaln_zero", hidden_dim=run.hidden, through=run.through, per_step=run.per_step)
    adapter = settings.make(cond.shape[1])
    adapter.standardize(cond)
    policy = made.attach(adapter, normalizer=Normalizer.fit(actions, made.config.space, margin=0.05))
    began, config = time.process_time(), FitConfig(steps=run.steps, lr=run.lr, seed=run.seed)
    losses = fit(policy, actions, blind if is_blind else cond, is_pad=is_pad, config=config)
    record = {
        "trained": policy.num_trainable,
        "frozen": policy.num_frozen,
        "rows": len(cond),
        "loss": round(sum(losses[-50:]) / 50, 4),
        "training_cpu_seconds": round(time.process_time() - began),
        "threads": torch.get_num_threads(),
        "inputs": dict(inputs),
    }
    observed = ObservedPolicy(template.encoder, policy, template.contract, record)
    observed.save(place)
    return observed.eval()
