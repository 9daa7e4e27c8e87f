"""The rollouts of a run: of every checkpoint the same starts, block by block.

Axes: n samples, c condition, h horizon, a action, b episodes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from action_heads.observed_policy import ObservedPolicy
from action_heads_lab import policies
from action_heads_lab.adapted import sight_of
from action_heads_lab.reproduce import images, states
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.families import Family
from action_heads_lab.reproduce.results import Episode, Progress, cpu_seconds
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import description

if TYPE_CHECKING:
    from action_heads_lab.reproduce.run import Place

# Episodes that are rolled out, and kept, together, and at once: batches, and so outcomes, are the same in every run.
BLOCK, AT_ONCE = 25, 8
WAYS = {"state": states, "image": images}  # how a run learns, by what it observes


def roll_out(run: Run, place: Place, family: Family, policy: ObservedPolicy, folder: Path, progress: Progress) -> None:
    """Add the episodes that are missing; after each block, all that is known is on the disk."""
    for step in run.checkpoint_steps:
        then = WAYS[run.observation].after(policy, folder, step, run)
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
    policy: ObservedPolicy,
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
        sight=sight_of(policy) if run.observation == "image" else None,
    )
    seconds["policy"] += outcome.policy_seconds
    seconds["environment"] += outcome.environment_seconds
    seconds["cpu"] += cpu_seconds() - cpu
    filmed = [str(video) if i < place.film else None for i in range(len(seeds))]
    return [
        Episode(task, seed, bool(success), int(length), film)
        for seed, success, length, film in zip(seeds, outcome.success, outcome.length, filmed, strict=True)
    ]


def actor(run: Run, policy: ObservedPolicy, family: Family, task: str, noise: int):
    """Return the policy as `rollout` calls it: states (b d), or images and states by name, -> chunks (b h a)."""
    generator = torch.Generator(policy.device).manual_seed(run.seed + 1_000_003 * noise)
    act = policies.actor(policy, description(task), generator, sampler=run.sampler, steps=run.sampling_steps)
    return act if run.observation == "image" else lambda observed: act(family.condition(observed, task))
