"""Runs on pictures: the same training as `action-heads adapt`, by the settings of a run.

Axes: b episodes at once, s observation steps, h horizon, a action.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from action_heads import ActionHead
from action_heads._util.machine import cores
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig
from action_heads.adapt.trainer import checkpoint_folder
from action_heads.data import Spec
from action_heads.data.formats import open_recording
from action_heads.io import files
from action_heads.observed_policy import ObservedPolicy
from action_heads_lab.reproduce.config import EXPERTS, EYES, Place, Run
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.results import PROGRESS, Progress, cpu_seconds
from action_heads_lab.sim.demo import smooth


def settings(run: Run, data: str, head: ActionHead, out: Path) -> AdaptConfig:
    """A run as `action-heads adapt` takes it."""
    eyes = EYES[run.family]
    written = as_experts(eyes) if run.data == EXPERTS else as_recorded(run, data)
    alike = ("adapter", "through", "hidden", "relearn_step", "steps", "batch_size", "lr", "noise_samples", "seed")
    flags = {name: getattr(run, name) for name in (*alike, "checkpoints")}
    flags |= {"data": data, "out": out, "head": str(head.source["path"]), "held_out": 0.0}
    flags |= {"mode": run.head_mode, "blind": run.mode == "blind"}
    return AdaptConfig.from_flat(flags | {"workers": max(1, cores() // 2)} | written | eyes["flags"])


def as_experts(eyes: dict[str, Any]) -> dict[str, Any]:
    """What the recordings of the experts are called."""
    return {"action": "action", "action_layout": "pose_6d", "cameras": eyes["cameras"], "state": eyes["state"]}


def as_recorded(run: Run, data: str) -> dict[str, Any]:
    """The two cameras, the arm's state and the actions of a recording of others, brought to the family's pixels."""
    dialect, size = run.dialect, EYES[run.family]["size"]
    found = open_recording(Spec.parse(data))
    known = dialect.cameras or {name: name for name in EYES[run.family]["cameras"]}
    cameras = tuple(name for name in known if name in found.cameras)
    if len(cameras) != len(EYES[run.family]["cameras"]):
        raise ValueError(
            f"{data} has the cameras {', '.join(found.cameras) or 'none'}; a run needs two of {', '.join(known)}"
        )
    resize = {} if {found.cameras[name] for name in cameras} == {(size, size)} else {"resize": (size, size)}
    return {"action_layout": dialect.layout, "cameras": cameras, "state": dialect.arm} | resize


def learn(run: Run, place: Place, head: ActionHead, folder: Path) -> tuple[ObservedPolicy, Progress]:
    """Train, go on training from the last saved step, or read back what has trained, by the trainer of `adapt`."""
    partial, out = folder / PROGRESS, folder / "policy"
    data, cpu = "" if partial.exists() else family_of(run).pictures(run, place.work), cpu_seconds()
    if (out / "results.json").exists():
        policy = ObservedPolicy.from_pretrained(out, device=place.device)
    else:
        if place.device == "cpu":
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        policy = adapt(settings(run, data, head, out), place.command).to(place.device)
    if partial.exists():
        return policy, Progress.load(partial)
    training = files.read_json(out / "results.json")["seconds"]
    return policy, Progress.begin(partial, training, cpu_seconds() - cpu, smooth(losses(out)))


def losses(out: Path) -> list[float]:
    """Of training, a point every so often."""
    points = [loss for _, loss in files.read_json(out / "curves.json")["train"]]
    return points or [files.read_json(out / "results.json")["training_loss"]]


def after(policy: ObservedPolicy, folder: Path, step: int, run: Run) -> ObservedPolicy:
    """Return the policy of a run as it was after so many steps."""
    if step == run.steps:
        return policy
    return ObservedPolicy.from_pretrained(checkpoint_folder(folder / "policy", step), device=policy.device)
