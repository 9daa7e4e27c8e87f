"""Compare ways to execute chunks on Lift, by success and by the jump of the target where one chunk follows another.

`switch` is what an asynchronous robot does without real-time chunking: it executes the old chunk until the new one is
there, and then continues in the middle of the new one.

    uv run benchmarks/stage2.py heads mixer && uv run benchmarks/execution.py

Axes: m windows, h horizon, a action, c condition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import tyro
from action_heads_lab.sim.interval import wilson
from closed_loop import closed_loop
from common import write_results
from stage2 import Data, pretrained
from torch import Tensor

from action_heads import ConditionedHead, Executor, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit

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
    """A policy that ignores committed actions. Its chunks are used from the end of the committed time steps."""

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


class Jumps:
    """A record of the distances in mm between successive targets, where a new chunk takes over and within chunks."""

    def __init__(self, executor: Executor):
        self.execute, self.delay = executor.execute, executor.delay
        self.seams: list[float] = []
        self.within: list[float] = []

    def __call__(self, tick: int, target: np.ndarray) -> None:
        if tick:
            # With a delay, a new chunk takes effect only after the committed ticks.
            takes_over = tick > self.delay and (tick - self.delay) % self.execute == 0
            (self.seams if takes_over else self.within).append(1e3 * float(np.linalg.norm(target[:3] - self.last)))
        self.last = target[:3]


def main() -> None:
    policy, rows = trained_policy(), []
    for name, options in WAYS.items():
        settings = dict(options)
        acting = Switch(policy) if settings.pop("switch", False) else policy
        executor = Executor(acting, **settings, generator=torch.Generator().manual_seed(0))
        jumps = Jumps(executor)
        successes = closed_loop(executor, TASK, EPISODES, name, watch=jumps)
        low, high = wilson(successes, EPISODES)
        rows.append(
            {"way": name, "successes": successes, "episodes": EPISODES, "interval": [round(low, 3), round(high, 3)]}
            | {"mm_between_chunks": round(float(np.mean(jumps.seams)), 1)}
            | {"mm_within_chunks": round(float(np.mean(jumps.within)), 1) if jumps.within else None}
        )
        print(rows[-1])
        write_results("execution", rows)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
