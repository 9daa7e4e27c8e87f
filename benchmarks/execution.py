"""Ways to execute chunks on Lift: success, and how far the target jumps where one chunk follows another.

`switch` is what an asynchronous robot does without real-time chunking: it plays the old chunk until the new one is
there and changes to it in the middle.

    uv run benchmarks/stage2.py heads mixer && uv run benchmarks/execution.py

Axes: m windows, h horizon, a action, c condition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import write_results
from scipy.stats import binomtest
from stage2 import Data, pretrained
from torch import Tensor
from tqdm import tqdm

from action_heads import ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.sim.envs import make
from action_heads.sim.tasks import TASKS

EPISODES, TASK = 50, "Lift"
WAYS: dict[str, dict[str, Any]] = {
    "receding horizon, 8 of 16": {},
    "temporal ensembling, every tick": {"execute": 1, "ensemble": 0.01},
    "2 steps": {"steps": 2},
    "2 steps, warm start at 0.5": {"steps": 2, "warm_start": 0.5},
    "4 ticks late, switch": {"delay": 4, "switch": True},
    "4 ticks late, real-time chunking": {"delay": 4},
    "8 ticks late, switch": {"delay": 8, "switch": True},
    "8 ticks late, real-time chunking": {"delay": 8},
}


class Switch:
    """A policy that knows nothing of what is committed: its chunks are used from where the committed steps end."""

    def __init__(self, policy: ConditionedHead):
        self.policy = policy

    def sample(self, cond: Tensor, previous: Tensor | None = None, committed: int = 0, **options: Any) -> Tensor:
        options.pop("start", None)
        chunk = self.policy.sample(cond, **options)
        return chunk if previous is None else torch.cat([previous[:, :committed], chunk[:, committed:]], dim=1)


def trained_policy() -> ConditionedHead:
    cond, actions, is_pad = Data.load(TASK, 100).train
    head = pretrained("mixer")
    torch.manual_seed(0)
    adapter = AdaLNZero(cond.shape[1], hidden_dim=128, through="both")
    adapter.standardize(cond)
    policy = head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space, margin=0.05))
    fit(policy, actions, cond, is_pad=is_pad, config=FitConfig(steps=800, prefixes=True, precision="bf16"))
    return policy


def roll_out(executor: Executor, name: str) -> tuple[int, list[float], list[float]]:
    """Successes; and how far successive targets lie apart, in mm: where a new chunk takes over, and within chunks."""
    sim, limit, successes = make(TASK), TASKS[TASK].rollout_steps, 0
    seams: list[float] = []
    within: list[float] = []
    for seed in tqdm(range(EPISODES), desc=name):
        executor.reset()
        newest = previous = sim.reset(seed)
        target = None
        for tick in range(limit):
            action = executor(torch.from_numpy(np.concatenate([previous, newest]))[None])[0].numpy()
            if target is not None:
                # With a delay a new chunk shows itself only after the committed ticks.
                takes_over = tick > executor.delay and (tick - executor.delay) % executor.execute == 0
                (seams if takes_over else within).append(1e3 * float(np.linalg.norm(action[:3] - target)))
            target, previous, newest = action[:3], newest, sim.step(action)
            if sim.success():
                successes += 1
                break
    sim.close()
    return successes, seams, within


def main() -> None:
    policy, rows = trained_policy(), []
    for name, options in WAYS.items():
        settings = dict(options)
        acting = Switch(policy) if settings.pop("switch", False) else policy
        executor = Executor(acting, **settings, generator=torch.Generator().manual_seed(0))
        successes, seams, within = roll_out(executor, name)
        low, high = binomtest(successes, EPISODES).proportion_ci(method="wilson")
        rows.append(
            {"way": name, "successes": successes, "episodes": EPISODES, "interval": [round(low, 3), round(high, 3)]}
            | {"mm_between_chunks": round(float(np.mean(seams)), 1)}
            | {"mm_within_chunks": round(float(np.mean(within)), 1) if within else None}
        )
        print(rows[-1])
        write_results("execution", rows)


if __name__ == "__main__":
    main()
