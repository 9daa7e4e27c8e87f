"""Roll out an `Executor` in one simulator, with one action per tick.

Axes: b batch (one here), a action, o observation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from action_heads_lab.sim import make
from action_heads_lab.sim.tasks import TASKS

from action_heads import Executor
from action_heads._util.progress import progress_bar


def closed_loop(
    executor: Executor,
    task: str,
    episodes: int,
    description: str,
    to_target: Callable[[torch.Tensor, np.ndarray], np.ndarray] = lambda action, observed: action[0].numpy(),
    watch: Callable[[int, np.ndarray], None] = lambda tick, target: None,
) -> int:
    """Return how many episodes, from seeds 0, 1, 2, ..., succeed.

    `to_target` makes an absolute target (10,) from an action (1 a) and the newest observation (o,). `watch` is called
    with every tick and its target.
    """
    sim, successes = make(task), 0
    for seed in progress_bar(range(episodes), desc=description):
        executor.reset()
        newest = previous = sim.reset(seed)
        for tick in range(TASKS[task].rollout_steps):
            target = to_target(executor(torch.from_numpy(np.concatenate([previous, newest]))[None]), newest)
            watch(tick, target)
            previous, newest = newest, sim.step(target)
            if sim.success():
                successes += 1
                break
    sim.close()
    return successes
