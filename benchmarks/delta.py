"""The delta-action head on Lift, controlled as in LIBERO: each action is a target relative to where the hand is now.

    uv run benchmarks/delta.py

Axes: n steps, m windows, h horizon, a action, c condition.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from common import write_results
from scipy.stats import binomtest
from stage2 import DEMOS, OUT
from torch import Tensor
from tqdm import tqdm

from action_heads import EE_DELTA, ActionHead, ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.sim.envs import make
from action_heads.sim.record import record
from action_heads.sim.tasks import TASKS

HEAD, TASK, USED, EPISODES = "dae/mlp-5m-fk-delta", "Lift", 100, 50


def demonstrations() -> tuple[Tensor, Tensor, Tensor]:
    """Conditions (m c), chunks of deltas (m h a) and padding (m h) of the first episodes."""
    total = DEMOS[TASK]
    recording = record(TASK, total, path=OUT / f"{TASK}-{total}.npz")
    observed, absolute = (torch.from_numpy(np.asarray(x)) for x in (recording.observation, recording.action))
    deltas = EE_DELTA.to_delta(absolute[:, None], observed[:, :9])[:, 0]  # an observation begins with the hand's pose
    windows = dataclasses.replace(recording, action=deltas.numpy()).chunks()
    end = int(recording.episode_length[:USED].sum())
    cond, actions, is_pad = (torch.from_numpy(np.array(part[:end])) for part in windows)
    return cond, actions, is_pad


def roll_out(policy: ConditionedHead, name: str) -> int:
    """Episodes that succeed."""
    executor = Executor(policy, execute=8, generator=torch.Generator().manual_seed(0))
    sim, successes = make(TASK), 0
    for seed in tqdm(range(EPISODES), desc=name):
        executor.reset()
        newest = previous = sim.reset(seed)
        for _ in range(TASKS[TASK].rollout_steps):
            delta = executor(torch.from_numpy(np.concatenate([previous, newest]))[None])
            target = EE_DELTA.to_absolute(delta[:, None], torch.from_numpy(newest[None, :9]))
            previous, newest = newest, sim.step(target[0, 0].numpy())
            if sim.success():
                successes += 1
                break
    sim.close()
    return successes


def main() -> None:
    head, rows = ActionHead.from_pretrained(HEAD), []
    cond, deltas, is_pad = demonstrations()
    for mode in ("decoupled", "random-frozen"):
        torch.manual_seed(0)
        adapter = AdaLNZero(cond.shape[1], through="code", hidden_dim=64)
        adapter.standardize(cond)
        policy = head.in_mode(mode).attach(adapter, normalizer=Normalizer.fit(deltas, EE_DELTA, margin=0.05))
        fit(policy, deltas, cond, is_pad=is_pad, config=FitConfig(steps=600, lr=1e-2), description=mode)
        successes = roll_out(policy, mode)
        low, high = binomtest(successes, EPISODES).proportion_ci(method="wilson")
        rows.append(
            {"mode": mode, "head": head.config.name, "fingerprint": head.fingerprint()}
            | {"frozen": policy.num_frozen, "trained": policy.num_trainable, "successes": successes}
            | {"episodes": EPISODES, "interval": [round(float(low), 3), round(float(high), 3)]}
        )
        print(rows[-1])
        write_results("delta", rows)


if __name__ == "__main__":
    main()
