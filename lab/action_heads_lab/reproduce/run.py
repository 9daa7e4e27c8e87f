"""One run: head, recording, Stage 2, rollouts, result. Killed, it goes on with the next block of episodes.

Axes: n samples, c condition, h horizon, a action.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads import ActionHead, ConditionedHead, Normalizer
from action_heads._util.machine import machine
from action_heads.adapt import AdaptedPolicy
from action_heads.adapters import ADAPTERS
from action_heads.fit import FitConfig, fit
from action_heads.io import drafts, files, locks
from action_heads_lab.reproduce import heads, pictures, results
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.families import Family, family_of
from action_heads_lab.reproduce.results import Progress, Result
from action_heads_lab.reproduce.rollouts import cpu_seconds, roll_out, see, weights_of
from action_heads_lab.sim.demo import smooth


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

    results: Path = Path("outputs/reproduce/results")
    work: Path = Path("outputs/reproduce")
    device: str = "cpu"
    workers: int = 1
    film: int = 0
    command: str = ""


def finished(run: Run, place: Place, head: ActionHead) -> Path | None:
    """The file of a run that was done before."""
    path = results.path_of(place.results, run, run.identity(heads.taken_of(run, head)))
    if path.exists():
        return path
    config = heads.stage1(run, place.work)  # another processor makes other bits of the same Stage 1
    return results.by_recipe(place.results, run, str(config.name)) if config else None


def perform(run: Run, place: Place) -> Result:
    """The whole of a run, or what is left of it."""
    family = family_of(run)
    head = heads.pretrained(run, place.work, place.device)
    identity = run.identity(heads.taken_of(run, head))
    if path := finished(run, place, head):
        return results.load(path)
    folder = place.work / "runs" / identity
    with locks.held(folder, remedy="leave this run to it: --share gives each process its own part"):
        if path := finished(run, place, head):  # by another process, in the meantime
            return results.load(path)
        return _perform(run, place, family, head, folder)


def _perform(run: Run, place: Place, family: Family, head: ActionHead, folder: Path) -> Result:
    drafts.sweep(folder, ["progress.json", "policy-*.safetensors", "*.mp4"])
    policy, progress = trained(run, place, family, head, folder)
    roll_out(run, place, family, policy, folder, progress)
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
    """The policy of a run, and what has been done of the run; weights of its checkpoints are in the folder.

    Returns (policy, Progress).
    """
    partial = folder / "progress.json"
    if run.observation == "image":
        return trained_on_images(run, place, family, head, folder / "policy", partial)
    cond, actions, is_pad = family.samples(run, place.work, head.config.horizon)
    cond = see(cond, run)
    policy = build(run, head, cond, actions)
    if partial.exists():
        return policy.eval(), Progress.load(partial)
    began, cpu = time.monotonic(), cpu_seconds()
    config = FitConfig(
        steps=run.steps, batch_size=run.batch_size, lr=run.lr, seed=run.seed, noise_samples=run.noise_samples
    )
    losses = fit(
        policy,
        *(actions, cond),
        is_pad=is_pad,
        config=config,
        description=f"{run}: training",
        keep=lambda step: files.save_tensors(policy.state_dict(), weights_of(folder, step)),
        keep_at=run.checkpoint_steps,
    )
    seconds = {"training": time.monotonic() - began, "policy": 0.0, "environment": 0.0, "cpu": cpu_seconds() - cpu}
    return policy, Progress(partial, seconds, [round(loss, 5) for loss in smooth(losses)]).save()


def trained_on_images(run: Run, place: Place, family: Family, head: ActionHead, out: Path, partial: Path):
    """As `trained`, by the trainer of `action-heads adapt`: killed, it goes on from its last saved step."""
    data = "" if partial.exists() else family.pictures(run, place.work)
    cpu = cpu_seconds()
    policy = pictures.train(run, data, head, out, place)
    if partial.exists():
        return policy, Progress.load(partial)
    seconds = {"training": files.read_json(out / "results.json")["seconds"], "policy": 0.0, "environment": 0.0}
    losses = [round(loss, 5) for loss in smooth(pictures.losses(out))]
    return policy, Progress(partial, seconds | {"cpu": cpu_seconds() - cpu}, losses).save()


def made_of(run: Run, policy: ConditionedHead | AdaptedPolicy) -> dict[str, Any]:
    """Fingerprint of a frozen head, and counts of head and adapter; with pictures, of the encoder too."""
    if isinstance(policy, ConditionedHead):
        fingerprint = policy.head.fingerprint() if policy.head.frozen else None
        return {"fingerprint": fingerprint, "frozen": policy.num_frozen, "trainable": policy.num_trainable}
    fingerprint = None if run.mode == "normal" else policy.policy.head.fingerprint()
    used, parts = policy.training_record["computed_with"], policy.training_record["parameters"]
    counts = {"frozen": used["frozen"], "trainable": used["trained"], "encoder": parts["encoder"]}
    return {"fingerprint": fingerprint} | counts
