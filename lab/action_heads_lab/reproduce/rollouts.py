"""The rollouts of a run: of every checkpoint the same starts, block by block.

Axes: n samples, c condition, h horizon, a action, b episodes at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from action_heads import ConditionedHead
from action_heads.adapt import AdaptedPolicy, checkpoints
from action_heads.io import files
from action_heads_lab.adapted import sight_of
from action_heads_lab.reproduce import pictures
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.families import Family
from action_heads_lab.reproduce.results import Episode, Progress
from action_heads_lab.sim.rollout import rollout

if TYPE_CHECKING:
    from action_heads_lab.reproduce.run import Place

# Episodes that are rolled out, and kept, together, and at once: batches, and so outcomes, are the same in every run.
BLOCK, AT_ONCE = 25, 8
Policy = ConditionedHead | AdaptedPolicy


def roll_out(run: Run, place: Place, family: Family, policy: Policy, folder: Path, progress: Progress) -> None:
    """Add the episodes that are missing; after each block, all that is known is on the disk."""
    for step in run.checkpoint_steps:
        then = after(policy, folder, step, run)
        episodes = progress.rolled.setdefault(step, [])
        known = {(episode.task, episode.seed) for episode in episodes}
        for task, start, seeds in blocks(family.evaluations(run)):
            if any((task, seed) not in known for seed in seeds):
                video = folder / f"{task.replace('/', '-')}-{step}-{start}.mp4" if place.film else None
                episodes += roll_out_block(run, place, then, family, task, seeds, video, progress.seconds)
                progress.save()


def blocks(evaluations: list[tuple[str, list[int]]]) -> Iterator[tuple[str, int, list[int]]]:
    """(task, number of the first, seeds) of the episodes that are rolled out together."""
    for task, seeds in evaluations:
        for start in range(0, len(seeds), BLOCK):
            yield task, start, seeds[start : start + BLOCK]


def roll_out_block(
    run: Run,
    place: Place,
    policy: Policy,
    family: Family,
    task: str,
    seeds: list[int],
    video: Path | None,
    seconds: dict[str, float],
) -> list[Episode]:
    """Episodes from these seeds; what they took is added to `seconds`."""
    cpu = cpu_seconds()
    outcome = rollout(
        task,
        actor(run, policy, family, task, noise=seeds[0]),
        seeds,
        execute=run.execute,
        batch=AT_ONCE,
        workers=place.workers,
        video=video,
        film=place.film,
        description=str(run) if task == run.task else f"{run}: {task}",
        sight=sight_of(policy) if isinstance(policy, AdaptedPolicy) else None,
    )
    seconds["policy"] += outcome.policy_seconds
    seconds["environment"] += outcome.environment_seconds
    seconds["cpu"] += cpu_seconds() - cpu
    filmed = [str(video) if i < place.film else None for i in range(len(seeds))]
    return [
        Episode(task, seed, bool(success), int(length), film)
        for seed, success, length, film in zip(seeds, outcome.success, outcome.length, filmed, strict=True)
    ]


def weights_of(folder: Path, step: int) -> Path:
    """Of the policy after so many steps."""
    return folder / f"policy-{step}.safetensors"


def after(policy: Policy, folder: Path, step: int, run: Run) -> Policy:
    """The policy of a run as it was after so many steps."""
    if isinstance(policy, ConditionedHead):
        policy.load_state_dict(files.load_tensors(weights_of(folder, step))[0])
        return policy
    if step == run.steps:
        return policy
    device = policy.policy.head.device
    return AdaptedPolicy.from_pretrained(checkpoints.folder_of(folder / "policy", step), device=device)


def cpu_seconds() -> float:
    """Of this process and of those it has ended: on a machine that others use too, wall time says little."""
    return sum(os.times()[:4])


def see(cond: Tensor, run: Run) -> Tensor:
    """What the policy is shown of conditions (n c)."""
    return torch.zeros_like(cond) if run.mode == "blind" else cond


def actor(run: Run, policy: Policy, family: Family, task: str, noise: int):
    """The policy as `rollout` calls it: conditions (b c), or what is seen by name, -> chunks (b h a)."""
    if isinstance(policy, AdaptedPolicy):
        return pictures.act(run, policy, task, noise)
    device = policy.head.device
    generator = torch.Generator(device).manual_seed(run.seed + 1_000_003 * noise)

    def act(observed: np.ndarray) -> np.ndarray:
        cond = see(torch.from_numpy(family.condition(observed, task)), run).to(device)
        chunk = policy.sample(cond, sampler=run.sampler, steps=run.sampling_steps, generator=generator)
        return chunk.cpu().numpy()

    return act
