"""Train runs on images, with the trainer of `action-heads adapt`.

Axes: b episodes at once, s observation steps, h horizon, a action.
"""

from __future__ import annotations

import json
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
from action_heads_lab.sim.report import smooth

CPU = "cpu_seconds.json"  # in the folder of an unfinished run


def settings(run: Run, data: str, head: ActionHead, out: Path) -> AdaptConfig:
    """Return the settings of `action-heads adapt` for a run."""
    eyes = EYES[run.family]
    written = {"action": "action", "action_layout": "pose_6d", "cameras": eyes["cameras"], "state": eyes["state"]}
    if run.data != EXPERTS:
        written = as_recorded(run, data)
    alike = ("adapter", "through", "hidden", "relearn_step", "steps", "batch_size", "lr", "noise_samples", "seed")
    flags = {name: getattr(run, name) for name in (*alike, "checkpoints")}
    flags |= {"data": data, "out": out, "head": str(head.source["path"]), "held_out": 0.0}
    flags |= {"mode": run.head_mode, "blind": run.mode == "blind"}
    return AdaptConfig.from_flat(flags | {"workers": max(1, cores() // 2)} | written | eyes["flags"])


def as_recorded(run: Run, data: str) -> dict[str, Any]:
    """Return the two cameras, the state and the actions of another recording, resized for the family."""
    dialect, size = run.dialect, EYES[run.family]["size"]
    found = open_recording(Spec.parse(data))
    known = dialect.cameras or {name: name for name in EYES[run.family]["cameras"]}
    cameras = tuple(name for name in known if name in found.cameras)
    if len(cameras) != len(EYES[run.family]["cameras"]):
        raise ValueError(
            f"{data} has the cameras {', '.join(found.cameras) or 'none'}, but a run needs two of {', '.join(known)}"
        )
    resize = {} if {found.cameras[name] for name in cameras} == {(size, size)} else {"resize": (size, size)}
    return {"action_layout": dialect.layout, "cameras": cameras, "state": dialect.arm} | resize


def learn(run: Run, place: Place, head: ActionHead, folder: Path) -> tuple[ObservedPolicy, Progress]:
    """Train, resume training, or load the policy that has trained, and return it with the run's progress."""
    partial, out = folder / PROGRESS, folder / "policy"
    data, cpu = "" if partial.exists() else family_of(run).image_data(run, place), cpu_seconds()
    if (out / "results.json").exists():
        policy = ObservedPolicy.from_pretrained(out, device=place.device)
    else:
        if place.device == "cpu":
            os.environ.setdefault("ACCELERATE_USE_CPU", "true")
        try:
            policy = adapt(settings(run, data, head, out), place.command).to(place.device)
        finally:  # an interrupted training goes on in another process, and its wall time counts all of them
            spent = before(folder) + cpu_seconds() - cpu
            files.write_text(folder / CPU, json.dumps(spent) + "\n")
    if partial.exists():
        return policy, Progress.load(partial)
    record = files.read_json(out / "results.json")
    progress = Progress.begin(partial, record["seconds"], before(folder), smooth(losses(out)))
    progress.inputs |= {name: found for name, found in record.get("inputs", {}).items() if name == "--data"}
    return policy, progress


def before(folder: Path) -> float:
    """Return the CPU seconds that the processes of a training have used so far, but for those that were killed."""
    return float(files.read_json(folder / CPU)) if (folder / CPU).exists() else 0.0


def losses(out: Path) -> list[float]:
    """Return the points of the training curve."""
    points = [loss for _, loss in files.read_json(out / "curves.json")["train"]]
    return points or [files.read_json(out / "results.json")["training_loss"]]


def after(policy: ObservedPolicy, folder: Path, step: int, run: Run) -> ObservedPolicy:
    """Return the policy of a run after a training step."""
    if step == run.steps:
        return policy
    return ObservedPolicy.from_pretrained(checkpoint_folder(folder / "policy", step), device=policy.device)
