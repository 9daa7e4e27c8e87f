"""Do one run: its head, recording, training (Stage 2), rollouts and result.

An interrupted run resumes at the next block of episodes.

Axes: b episodes at once, c condition, h horizon, a action.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from action_heads import ActionHead
from action_heads._util.machine import machine
from action_heads.io import drafts, locks
from action_heads.modes import taken_of
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab import policies
from action_heads_lab.reproduce import heads, images, results, states
from action_heads_lab.reproduce.config import Place, Run
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.results import Episode, Progress, Result, cpu_seconds
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import description

# Episodes that are rolled out and saved together. Results depend on it, so it is the same in every run.
BLOCK = 25
TRAINING = {"state": states, "image": images}  # the module that trains a run, by its observation


def finished(run: Run, place: Place, head: ActionHead) -> Path | None:
    """Return the result file of a run that was done before, or None."""
    path = results.path_of(place.results, run, run.identity(taken_of(head, run.uses_pretraining)))
    if path.exists():
        return path
    config = heads.stage1(run, place.work)  # the same Stage 1 gives other bits on another processor
    return results.by_recipe(place.results, run, str(config.name)) if config else None


def read(path: Path, run: Run, place: Place) -> Result:
    """Return the result of a finished run.

    Raises:
        ValueError: its recording has changed since.
    """
    result, remedy = results.load(path), "use another --out, or delete this file to do the run again"
    results.refuse_changed(path, result.inputs, family_of(run).contents(run, place), remedy)
    return result


def perform(run: Run, place: Place) -> Result:
    """Do a run, or what is left of it, and return its result.

    Raises:
        InUse: another process does this run.
        ValueError: the run was finished or begun with other contents of its recording, or is one on other assets than
            those that are installed.
    """
    head = heads.pretrained(run, place)
    if path := finished(run, place, head):
        return read(path, run, place)
    folder = place.work / "runs" / run.identity(taken_of(head, run.uses_pretraining))
    with locks.held(folder, remedy="leave this run to it: --share gives each process its own part"):
        if path := finished(run, place, head):  # another process has finished it in the meantime
            return read(path, run, place)
        return _perform(run, place, head, folder)


def _perform(run: Run, place: Place, head: ActionHead, folder: Path) -> Result:
    if run.assets != (here := family_of(run).installed()):
        raise ValueError(
            f"{run} has the assets {run.assets!r}, but those installed are {here!r}. Run it on these, with "
            f"replace(run, assets={here!r}), or install the others"
        )
    drafts.sweep(folder, [results.PROGRESS, "policy-*.safetensors", "*.mp4"])
    policy, progress = TRAINING[run.observation].learn(run, place, head, folder)
    inputs, remedy = family_of(run).contents(run, place), f"or delete {folder} to begin the run again"
    results.refuse_changed(progress.path, progress.inputs, inputs, remedy)
    progress.inputs |= inputs
    progress.save()
    roll_out(run, place, policy, folder, progress)
    *earlier, last = run.checkpoint_steps
    identity = folder.name
    result = Result(
        id=identity,
        run=run,
        episodes=tuple(progress.rolled[last]),
        earlier={step: tuple(progress.rolled[step]) for step in earlier},
        head={"name": head.config.name} | made_of(run, policy),
        seconds={key: round(value, 2) for key, value in progress.seconds.items()},
        losses=progress.losses,
        machine=machine() | {"workers": place.workers} | family_of(run).versions(),
        command=place.command,
        date=time.strftime("%Y-%m-%d"),
        inputs=progress.inputs,
    )
    results.save(result, results.path_of(place.results, run, identity))
    return result


def made_of(run: Run, policy: ObservedPolicy) -> dict[str, Any]:
    """Return the fingerprint of a frozen head, and the parameters of head, adapter and, if there is one, encoder."""
    fingerprint = None if run.mode == "normal" else policy.policy.head.fingerprint()
    used, parts = policy.training_record["computed_with"], policy.training_record["parameters"]
    encoder = {"encoder": parts["encoder"]} if run.observation == "image" else {}
    return {"fingerprint": fingerprint, "frozen": used["frozen"], "trainable": used["trained"]} | encoder


def roll_out(run: Run, place: Place, policy: ObservedPolicy, folder: Path, progress: Progress) -> None:
    """Roll out the missing episodes of every checkpoint, and save the progress after each block."""
    for step in run.checkpoint_steps:
        then = TRAINING[run.observation].after(policy, folder, step, run)
        episodes = progress.rolled.setdefault(step, [])
        known = {(episode.task, episode.seed) for episode in episodes}
        for task, start, seeds in blocks(family_of(run).evaluations(run)):
            if all((task, seed) in known for seed in seeds):
                continue
            video = folder / f"{task.replace('/', '-')}-{step}-{start}.mp4" if place.videos else None
            cpu = cpu_seconds()
            outcome = rollout(
                task,
                actor(run, then, task, noise=seeds[0]),
                seeds,
                execute=run.execute,
                batch=policies.AT_ONCE,
                workers=place.workers,
                video=video,
                film=place.videos,
                description=str(run) if task == run.task else f"{run}: {task}",
                sight=policies.sight_of(then) if run.observation == "image" else None,
            )
            progress.seconds["policy"] += outcome.policy_seconds
            progress.seconds["environment"] += outcome.environment_seconds
            progress.seconds["cpu"] += cpu_seconds() - cpu
            filmed = [str(video) if i < place.videos else None for i in range(len(seeds))]
            episodes += [
                Episode(task, seed, bool(success), int(length), film)
                for seed, success, length, film in zip(seeds, outcome.success, outcome.length, filmed, strict=True)
            ]
            progress.save()


def blocks(evaluations: list[tuple[str, list[int]]]) -> Iterator[tuple[str, int, list[int]]]:
    """Yield (task, number of the first episode, seeds) of the episodes that are rolled out together."""
    for task, seeds in evaluations:
        for start in range(0, len(seeds), BLOCK):
            yield task, start, seeds[start : start + BLOCK]


def actor(run: Run, policy: ObservedPolicy, task: str, noise: int):
    """Return the policy as `rollout` calls it: states (b c), or images and states by name, -> chunks (b h a)."""
    generator = torch.Generator(policy.device).manual_seed(run.seed + 1_000_003 * noise)
    act = policies.actor(policy, description(task), generator, sampler=run.sampler, steps=run.sampling_steps)
    return act if run.observation == "image" else lambda observed: act(family_of(run).condition(observed, task))
