"""Build policies on states, wrap any policy as `rollout` calls it, and say which observations a policy needs.

Axes: n samples, d state, b episodes at once, s observation steps, h horizon, a action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads import ActionHead, Normalizer
from action_heads.actions.contract import Contract
from action_heads.actions.layout_checks import UNDECLARED
from action_heads.adapters.config import AdapterConfig
from action_heads.encoders import ObservationConfig, ObservationEncoder
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab.sim.conventions import dialect_of
from action_heads_lab.sim.envs import CONTROL_HZ
from action_heads_lab.sim.observations import Sight, is_apart

AT_ONCE = 8  # episodes; the same in every run, since the size of a batch changes the bits of the result
# A blind run uses the mode decoupled. The contract of its policy zeroes the observations.
BLIND = {"blind": "as decoupled, but the condition is zeroed in training and in rollouts"}


def on_states(
    head: ActionHead, adapter: AdapterConfig, state: Tensor, actions: Tensor, seed: int, blind: bool = False
) -> ObservedPolicy:
    """Return a policy with a fresh adapter and the statistics of demonstrations, states (n d) and actions (n h a)."""
    encoder = ObservationEncoder(ObservationConfig(state_dim=state.shape[-1], observation_steps=1))
    contract = Contract(("observation",), {}, "action", "pose_6d", UNDECLARED, CONTROL_HZ, blind)
    normalizer = Normalizer.fit(actions, head.config.space, margin=0.05)
    torch.manual_seed(seed)  # adapters start with the same weights in every mode
    policy = ObservedPolicy(encoder, head.attach(adapter.make(encoder.cond_dim), normalizer=normalizer), contract)
    policy.policy.adapter.standardize(policy.condition(state=state[:, None]))
    policy.training_record = policy.counts()
    return policy


def actor(
    policy: ObservedPolicy,
    task: str,
    noise: torch.Generator,
    say: Callable[[str], str] = lambda instruction: instruction,
    **sampling: Any,
) -> Callable[[dict[str, np.ndarray] | np.ndarray], np.ndarray]:
    """Return the policy as `rollout` calls it: observations by name, each (b s ...), or states (b d) -> (b h a).

    Args:
        policy: the policy.
        task: the task description, for policies that read it and tasks whose episodes have no instruction of their own.
        noise: the generator of the sampling noise, on the device of the policy.
        say: function from the instruction of an episode to the words that the policy reads.
        sampling: options of `sample`.
    """

    @torch.no_grad()
    def act(observed: dict[str, np.ndarray] | np.ndarray) -> np.ndarray:
        seen = dict(observed) if isinstance(observed, dict) else {"state": observed[:, None]}
        instructions = seen.pop("instruction", None)
        there = {name: torch.from_numpy(x).to(policy.device) for name, x in seen.items()}
        state = there.pop("state", None)
        images = {name: x.permute(0, 1, 4, 2, 3) for name, x in there.items()}
        tasks = None
        if policy.encoder.reads_task:
            number = len(next(iter(seen.values())))
            tasks = [task] * number if instructions is None else [say(str(words)) for words in instructions[:, -1]]
        cond, mask = policy.encode(images, state, tasks)
        return policy.policy.sample(cond, mask=mask, generator=noise, **sampling).cpu().numpy()

    return act


def sight_of(policy: ObservedPolicy) -> Sight:
    """Return the observations that the simulation must provide."""
    contract = policy.contract
    sizes = {name: size[0] for name, size in contract.sizes.items()}
    delta = policy.layout.space().mode == "delta"
    dialect = dialect_of(contract.state, contract.sizes, contract.action, contract.action_layout)
    apart = dialect == "own" and is_apart(contract.state, policy.encoder.config.state_dim)
    return Sight(contract.state, sizes, policy.encoder.config.observation_steps, delta, dialect, apart)
