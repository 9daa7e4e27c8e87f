"""One run: head, recording, Stage 2, rollouts, result. Killed, it goes on with the next block of episodes.

Axes: n samples, c condition, h horizon, a action.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from action_heads import ActionHead
from action_heads._util.machine import machine
from action_heads.io import drafts, locks
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab.reproduce import heads, results
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.families import Family, family_of
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.rollouts import WAYS, roll_out


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
    drafts.sweep(folder, [results.PROGRESS, "policy-*.safetensors", "*.mp4"])
    policy, progress = WAYS[run.observation].learn(run, place, family, head, folder)
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


def made_of(run: Run, policy: ObservedPolicy) -> dict[str, Any]:
    """Return the fingerprint of a frozen head, and counts of head, adapter and, if there is one, encoder."""
    fingerprint = None if run.mode == "normal" else policy.policy.head.fingerprint()
    used, parts = policy.training_record["computed_with"], policy.training_record["parameters"]
    encoder = {"encoder": parts["encoder"]} if run.observation == "image" else {}
    return {"fingerprint": fingerprint, "frozen": used["frozen"], "trainable": used["trained"]} | encoder
