"""One run: head, recording, Stage 2, rollouts, result. Killed, it goes on with the next block of episodes.

Axes: n samples, c condition, h horizon, a action, b episodes at once.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from action_heads import ActionHead, ConditionedHead, Normalizer, files
from action_heads.adapt import AdaptedPolicy
from action_heads.adapt.rollout import sight_of
from action_heads.adapters import ADAPTERS
from action_heads.fit import FitConfig, fit
from action_heads.machine import machine
from action_heads.reproduce import heads, pictures, results
from action_heads.reproduce.config import Run
from action_heads.reproduce.families import Family, family_of
from action_heads.reproduce.results import Episode, Result
from action_heads.sim.demo import smooth
from action_heads.sim.rollout import rollout

# Episodes that are rolled out, and kept, together, and at once: batches, and so outcomes, are the same in every run.
BLOCK, AT_ONCE = 25, 8


@dataclass(frozen=True)
class Place:
    """Where and how, none of which a result depends on.

    Attributes:
        results: folder of the results.
        work: folder of what can be made again: recordings, heads, trained policies, videos.
        device: where to train.
        workers: processes of simulation.
        film: so many episodes of every block are filmed.
        command: how this was called, for the record.
    """

    results: Path = Path("results")
    work: Path = Path("outputs/reproduce")
    device: str = "cpu"
    workers: int = 1
    film: int = 0
    command: str = ""


def finished(run: Run, place: Place, head: ActionHead) -> Path | None:
    """The file of a run that was done before."""
    path = results.path_of(place.results, run, run.identity(heads.taken_of(run, head)))
    return path if path.exists() else None


def perform(run: Run, place: Place) -> Result:
    """The whole of a run, or what is left of it."""
    family = family_of(run)
    head = heads.pretrained(run, place.work, place.device)
    identity = run.identity(heads.taken_of(run, head))
    if path := finished(run, place, head):
        return results.load(path)
    folder = place.work / "runs" / identity
    policy, episodes, seconds, losses = trained(run, place, family, head, folder)
    roll_out(run, place, family, policy, folder, episodes, seconds, losses)
    result = Result(
        id=identity,
        run=run,
        episodes=tuple(episodes),
        head={"name": head.config.name} | made_of(run, policy),
        seconds={key: round(value, 2) for key, value in seconds.items()},
        losses=losses,
        machine=machine() | {"workers": place.workers} | family.versions(),
        command=place.command,
        date=time.strftime("%Y-%m-%d"),
    )
    results.save(result, results.path_of(place.results, run, identity))
    return result


def build(run: Run, pretrained: ActionHead, cond: Tensor, actions: Tensor) -> ConditionedHead:
    """The policy before training; `cond` (n c) and `actions` (n h a) give it its statistics."""
    head = pretrained.in_mode("decoupled" if run.mode == "blind" else run.mode, seed=run.seed)
    torch.manual_seed(run.seed)  # the adapter begins with the same weights in every mode
    adapter = ADAPTERS[run.adapter](
        cond.shape[-1], hidden_dim=run.hidden, relearn_step=run.relearn_step, through=run.through
    )
    adapter.standardize(cond)
    return head.attach(adapter, normalizer=Normalizer.fit(actions, head.config.space, margin=0.05))


def trained(run: Run, place: Place, family: Family, head: ActionHead, folder: Path):
    """The policy of a run after Stage 2, and the episodes, times and losses so far; read back if it was trained before.

    Returns (policy, episodes, seconds, losses).
    """
    partial = folder / "partial.json"
    if run.observation == "image":
        return trained_on_images(run, place, family, head, folder / "policy", partial)
    cond, actions, is_pad = family.samples(run, place.work, head.config.horizon)
    cond = see(cond, run)
    policy = build(run, head, cond, actions)
    weights = folder / "policy.safetensors"
    if partial.exists():
        policy.load_state_dict(files.load_tensors(weights)[0])
        return policy.eval(), *results.load_partial(partial)
    began, cpu = time.monotonic(), cpu_seconds()
    config = FitConfig(
        steps=run.steps, batch_size=run.batch_size, lr=run.lr, seed=run.seed, noise_samples=run.noise_samples
    )
    losses = smooth(fit(policy, actions, cond, is_pad=is_pad, config=config, description=f"{run}: training"))
    losses = [round(loss, 5) for loss in losses]
    seconds = {"training": time.monotonic() - began, "policy": 0.0, "environment": 0.0, "cpu": cpu_seconds() - cpu}
    files.save_tensors(policy.state_dict(), weights)
    results.save_partial(partial, [], seconds, losses)
    return policy, [], seconds, losses


def trained_on_images(run: Run, place: Place, family: Family, head: ActionHead, out: Path, partial: Path):
    """As `trained`, by the trainer of `action-heads adapt`: killed, it goes on from its last saved step."""
    data = "" if partial.exists() else family.pictures(run, place.work)
    cpu = cpu_seconds()
    policy = pictures.train(run, data, head, out, place)
    if partial.exists():
        return policy, *results.load_partial(partial)
    seconds = {"training": files.read_json(out / "results.json")["seconds"], "policy": 0.0, "environment": 0.0}
    losses = [round(loss, 5) for loss in smooth(pictures.losses(out))]
    results.save_partial(partial, [], seconds | {"cpu": cpu_seconds() - cpu}, losses)
    return policy, *results.load_partial(partial)


def made_of(run: Run, policy: ConditionedHead | AdaptedPolicy) -> dict[str, Any]:
    """Fingerprint of a frozen head, and counts of head and adapter; with pictures, of the encoder too."""
    if isinstance(policy, ConditionedHead):
        fingerprint = policy.head.fingerprint() if policy.head.frozen else None
        return {"fingerprint": fingerprint, "frozen": policy.num_frozen, "trainable": policy.num_trainable}
    fingerprint = None if run.mode == "normal" else policy.policy.head.fingerprint()
    used, parts = policy.training_record["computed_with"], policy.training_record["parameters"]
    counts = {"frozen": used["frozen"], "trainable": used["trained"], "encoder": parts["encoder"]}
    return {"fingerprint": fingerprint} | counts


def roll_out(
    run: Run,
    place: Place,
    family: Family,
    policy: ConditionedHead | AdaptedPolicy,
    folder: Path,
    episodes: list[Episode],
    seconds: dict[str, float],
    losses: list[float],
) -> None:
    """Add the episodes that are missing, block by block; after each, all that is known is on the disk."""
    done = {(episode.task, episode.seed) for episode in episodes}
    for task, seeds in family.evaluations(run):
        for start in range(0, len(seeds), BLOCK):
            block = seeds[start : start + BLOCK]
            if all((task, seed) in done for seed in block):
                continue
            cpu = cpu_seconds()
            video = folder / f"{task.replace('/', '-')}-{start}.mp4" if place.film else None
            outcome = rollout(
                task,
                actor(run, policy, family, task, noise=block[0]),
                block,
                execute=run.execute,
                batch=AT_ONCE,
                workers=place.workers,
                video=video,
                film=place.film,
                description=f"{run}: episodes {start + 1} to {start + len(block)}",
                sight=sight_of(policy) if isinstance(policy, AdaptedPolicy) else None,
            )
            seconds["policy"] += outcome.policy_seconds
            seconds["environment"] += outcome.environment_seconds
            seconds["cpu"] += cpu_seconds() - cpu
            for i, seed in enumerate(block):
                filmed = str(video) if i < place.film else None
                episodes.append(Episode(task, seed, bool(outcome.success[i]), int(outcome.length[i]), filmed))
            results.save_partial(folder / "partial.json", episodes, seconds, losses)


def cpu_seconds() -> float:
    """Of this process and of those it has ended: on a machine that others use too, wall time says little."""
    return sum(os.times()[:4])


def see(cond: Tensor, run: Run) -> Tensor:
    """What the policy is shown of conditions (n c)."""
    return torch.zeros_like(cond) if run.mode == "blind" else cond


def actor(run: Run, policy: ConditionedHead | AdaptedPolicy, family: Family, task: str, noise: int):
    """The policy as `rollout` calls it: conditions (b c), or what is seen by name, -> chunks (b h a)."""
    if isinstance(policy, AdaptedPolicy):
        return pictures.act(run, policy, task, noise)
    device = policy.head.objective.alpha.device
    generator = torch.Generator(device).manual_seed(run.seed + 1_000_003 * noise)

    def act(observed: np.ndarray) -> np.ndarray:
        cond = see(torch.from_numpy(family.condition(observed, task)), run).to(device)
        chunk = policy.sample(cond, sampler=run.sampler, steps=run.sampling_steps, generator=generator)
        return chunk.cpu().numpy()

    return act
