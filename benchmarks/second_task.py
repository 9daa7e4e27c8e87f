"""Train Lift, then Stack on the same network: what a task costs, and what the second one does to the first.

    uv run benchmarks/second_task.py [--seeds 0 1 2]

A frozen head gets an adapter for each task. In normal training the network trains along, so the second task trains the
network of the first, with an adapter of its own. The first task is rolled out before and after the second. Results are
written to benchmarks/results/second_task.json after each run, and a run that is there is not repeated.

Axes: n samples, d state, h horizon, a action.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from action_heads_lab.policies import actor, on_states
from action_heads_lab.sim.interval import success_text
from action_heads_lab.sim.record import record
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import description
from common import DOCS, check_row, fill, read_results, row_of, stamped, table, write_results
from torch import Tensor

from action_heads import ActionHead
from action_heads.adapters.config import AdapterConfig
from action_heads.fit import FitConfig, fit
from action_heads.io.files import fingerprint
from action_heads.observed_policy import ObservedPolicy

HEAD, TASKS, DEMOS, STEPS, EPISODES = "dae/mixer-5m-fk", ("Lift", "Stack"), 100, 600, 50
OUTCOMES = ("first", "second", "first_after_second")
OUT = Path("outputs/second_task")
PAGE = DOCS / "second-task.md"
# Adapter and learning rate of each mode, as in the demo and in the study of images.
SETTINGS = {
    "decoupled": (AdapterConfig("adaln_zero", hidden_dim=64, through="code"), 1e-2),
    "normal": (AdapterConfig("adaln_zero", through="both"), 2.5e-3),
}


def demonstrations(task: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return states (n d), chunks (n h a) and padding (n h) of a task."""
    recording = record(task, DEMOS, path=OUT / f"{task}-{DEMOS}.npz")
    state, actions, is_pad = (torch.from_numpy(np.array(part)) for part in recording.chunks())
    return state, actions, is_pad


@cache
def inputs() -> dict[str, str]:
    """Return a hash of the head and of each task's demonstrations."""
    hashes = {}
    for task in TASKS:
        state, actions, is_pad = demonstrations(task)
        tensors = {"state": state, "actions": actions, "is_pad": is_pad}
        hashes[f"the demonstrations of {task}"] = fingerprint(tensors)
    return hashes | {"the head": ActionHead.from_pretrained(HEAD).fingerprint()}


def learn(head: ActionHead, task: str, mode: str, seed: int) -> tuple[ObservedPolicy, dict[str, Any]]:
    """Attach an adapter for a task and train it, with the head if that trains. Return the policy and its costs."""
    (state, actions, is_pad), (adapter, lr) = demonstrations(task), SETTINGS[mode]
    policy = on_states(head, adapter, state, actions, seed)
    cond, config = policy.condition(state=state[:, None]), FitConfig(steps=STEPS, lr=lr, seed=seed)
    began = time.process_time()
    fit(policy.policy, actions, cond, is_pad=is_pad, config=config, description=task)
    seconds = time.process_time() - began
    trained = policy.policy.num_trainable
    costs = {
        "trained": trained,
        "optimizer_bytes": 8 * trained,  # AdamW keeps two float32 numbers for each parameter.
        "task_bytes": 4 * trained,
        "ms_of_a_training_step": round(1e3 * seconds / STEPS, 1),
    }
    return policy.eval(), costs


def successes(policy: ObservedPolicy, task: str, seed: int) -> int:
    """Return how many episodes succeed."""
    act = actor(policy, description(task), torch.Generator().manual_seed(seed))
    return int(rollout(task, act, range(EPISODES), batch=8, workers=1, progress=False).success.sum())


def measure(mode: str, seed: int) -> dict[str, Any]:
    """Train both tasks one after the other, and return costs and successes."""
    head = ActionHead.from_pretrained(HEAD).in_mode(mode, seed=seed)
    first, costs = learn(head, TASKS[0], mode, seed)
    probe = torch.randn(16, demonstrations(TASKS[0])[0].shape[1], generator=torch.Generator().manual_seed(seed))
    before, chunks = successes(first, TASKS[0], seed), sample(first, probe)
    second, _ = learn(head, TASKS[1], mode, seed)
    return {
        "mode": mode,
        "seed": seed,
        **costs,
        "first": before,
        "second": successes(second, TASKS[1], seed),
        "first_after_second": successes(first.eval(), TASKS[0], seed),
        "same_chunks": torch.equal(chunks, sample(first, probe)),
    }


@torch.no_grad()
def sample(policy: ObservedPolicy, state: Tensor) -> Tensor:
    """Return the chunks (n h a) of these states (n d), from fixed noise."""
    return policy.policy.sample(policy.condition(state=state[:, None]), generator=torch.Generator().manual_seed(0))


def page(rows: list[dict[str, Any]]) -> None:
    """Fill the tables of the page."""

    def of(count: int) -> str:
        return success_text(count, EPISODES)

    rows = sorted(rows, key=lambda row: (row["mode"], row["seed"]))
    head = ["run", "seed", TASKS[0], f"{TASKS[1]}, trained after it", f"{TASKS[0]} again", "the same chunks as before"]
    outcomes = [
        [row["mode"], str(row["seed"]), *(of(row[key]) for key in OUTCOMES), "yes" if row["same_chunks"] else "no"]
        for row in rows
    ]
    costs = [
        [
            row["mode"],
            f"{row['trained']:,}",
            f"{row['task_bytes'] / 1e6:.2f} MB",
            f"{row['optimizer_bytes'] / 1e6:.2f} MB",
            f"{row['ms_of_a_training_step']:.0f} ms",
        ]
        for row in rows
        if row["seed"] == rows[0]["seed"]
    ]
    cost_head = ["run", "trained parameters", "weights of a task", "AdamW's memory", "CPU time of a training step"]
    fill(PAGE, {"outcomes": table(head, outcomes), "costs": table(cost_head, costs)})


def main(seeds: tuple[int, ...] = (0,)) -> None:
    """Train both tasks in both modes, write the results and fill the page.

    Args:
        seeds: training seeds.
    """
    torch.set_num_threads(1)
    for mode, seed in [(mode, seed) for seed in seeds for mode in SETTINGS]:
        rows, key = read_results("second_task", []), {"mode": mode, "seed": seed}
        if (row := row_of(rows, key)) is not None:
            if "inputs" in row:  # Rows of an earlier release have none.
                check_row("second_task", row, key, inputs())
        else:
            rows.append(stamped(measure(mode, seed) | {"inputs": inputs()}))
            print(rows[-1], flush=True)
            write_results("second_task", rows)
    page(read_results("second_task"))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
