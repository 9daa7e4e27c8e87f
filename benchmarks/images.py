"""Where pretraining pays on images: success of policies on cached keypoints of a frozen encoder.

A cell records and encodes nothing: demonstrations come from `action-heads record`, their keypoints
from the cache of `action-heads adapt --train-encoder cached`, so a cell is one short training run and its rollouts.
Finished cells are kept in benchmarks/results/images.json, and a run that was killed goes on.

    seen="--size 128 --cameras agentview robot0_eye_in_hand"
    uv run action-heads record Lift outputs/images/Lift --demos 100 $seen
    uv run action-heads record Stack outputs/images/Stack --demos 50 $seen
    uv run action-heads record PickPlaceCan outputs/images/PickPlaceCan --demos 50 $seen
    uv run action-heads record stack_d1 outputs/images/stack_d1 --demos 100 $seen
    uv run action-heads record coffee_d2 outputs/images/coffee_d2 --demos 50 $seen
    uv run action-heads record mug_cleanup_d1 outputs/images/mug_cleanup_d1 --demos 50 $seen
    uv run benchmarks/images.py --encoder outputs/encoders/mobilenetv2 [--only Lift] [--minutes 60]
    uv run benchmarks/images_report.py     # the tables and figures of two pages, from all that is finished

Axes: N rows, c condition, h horizon, a action.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from action_heads_lab.policies import actor
from action_heads_lab.sim.interval import wilson
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import description
from common import check_row, command_line, read_results, row_of, stamped, with_row, write_results
from on_features import first_episodes, trained
from torch import Tensor

from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig, Vision
from action_heads.observed_policy import ObservedPolicy

CAMERAS = ("agentview", "robot0_eye_in_hand")
HEAD = "dae/mixer-5m-fk"
OBSERVED, EXECUTE, AT_ONCE = 2, 8, 8  # OBSERVED: observation steps


@dataclass(frozen=True)
class Cell:
    """One training run and its rollouts. `blind` is the mode decoupled with mean keypoints for every image."""

    task: str
    mode: str = "decoupled"
    demos: int = 25
    through: str = "code"
    hidden: int | None = 128
    lr: float = 1e-2
    steps: int = 800
    seed: int = 0
    per_step: bool = False  # a code for every time step of a chunk
    denoising: int = 10  # denoising steps of the rollouts

    @property
    def policy(self) -> str:
        """The name of the policy, which the settings of its training make."""
        settings = [str(value) for name, value in asdict(self).items() if name not in ("per_step", "denoising")]
        return "-".join(settings + ["per_step"] * self.per_step)


ADDED = ("successes", "episodes", "rollout_cpu_seconds")  # what later rollouts of a cell add to
NORMAL: dict[str, Any] = {"mode": "normal", "through": "both", "hidden": None, "lr": 2.5e-3}
TASKS = ("Lift", "Stack", "PickPlaceCan")
MIMICGEN = ("stack_d1", "coffee_d2", "mug_cleanup_d1")


def modes(task: str, demos: int, *, blind: bool = False) -> list[Cell]:
    """Return the cells of every mode, with a small adapter on a frozen head."""
    frozen = ("decoupled", "random-frozen", "blind") if blind else ("decoupled", "random-frozen")
    return [*(Cell(task, mode, demos) for mode in frozen), Cell(task, demos=demos, **NORMAL)]


def smaller(task: str, demos: int) -> list[Cell]:
    """Return the cells with an adapter of 21 thousand parameters on a frozen head."""
    return [Cell(task, mode, demos, hidden=24) for mode in ("decoupled", "random-frozen")]


def larger(task: str, demos: int) -> list[Cell]:
    """Return the cells with an adapter of 1.9 million parameters on a frozen head."""
    return [Cell(task, mode, demos, "both", 256, 2.5e-3) for mode in ("decoupled", "random-frozen")]


def richer(task: str, demos: int) -> list[Cell]:
    """Return the cells with a code for every time step, which holds more of a chunk than one code."""
    return [Cell(task, mode, demos, per_step=True) for mode in ("decoupled", "random-frozen")]


def mimicgen(task: str, demos: int) -> list[Cell]:
    """Return the cells of a task of MimicGen: three modes, with more training steps."""
    return [replace(cell, steps=2000) for cell in (*larger(task, demos), Cell(task, demos=demos, **NORMAL))]


CELLS = [
    *modes("Lift", 25, blind=True),
    *modes("Lift", 10),
    *modes("Lift", 100),
    *smaller("Lift", 25),
    *larger("Lift", 25),
    *larger("Stack", 50),
    *(cell for task in ("PickPlaceCan", "Stack") for cell in [*modes(task, 50, blind=True), *modes(task, 25)]),
    *larger("PickPlaceCan", 50),
    Cell("PickPlaceCan", demos=50, steps=3 * Cell.steps),
    *richer("PickPlaceCan", 50),
    Cell("PickPlaceCan", demos=50, denoising=2),
    *smaller("PickPlaceCan", 50),
    *smaller("Stack", 50),
    mimicgen("stack_d1", 50)[0],
    *mimicgen("stack_d1", 100),
    *mimicgen("coffee_d2", 50),
    *mimicgen("mug_cleanup_d1", 50),
]


class Demonstrations(NamedTuple):
    """The training data of one recording, and the parts of its policies that no mode changes."""

    template: ObservedPolicy
    cond: Tensor  # (N c)
    actions: Tensor  # (N h a)
    is_pad: Tensor  # (N h)
    episode: np.ndarray  # (N,)
    mean: dict[str, Tensor]  # mean keypoints (w,) of all rows, by camera
    blind: Tensor  # (N c): the condition with mean keypoints
    inputs: dict[str, str]  # a hash of recording, encoder and head


def demonstrations(folder: Path, encoder: str) -> Demonstrations:
    """Read a recording with the keypoints of its images, as `action-heads adapt --train-encoder cached` does."""
    vision = Vision(encoder, "cached", pool="keypoints", stride=16)
    config = AdaptConfig(
        data=f"lerobot:{folder}",
        head=HEAD,
        cameras=CAMERAS,
        vision=vision,
        observation_steps=OBSERVED,
        held_out=0.0,
        workers=0,
    )
    template, windows, _, inputs = build(config)
    assert windows.outputs is not None
    rows = [windows[i] for i in range(len(windows))]
    actions, is_pad, state = (torch.stack([row[key] for row in rows]) for key in ("actions", "is_pad", "state"))
    seen = {camera: torch.stack([row["outputs"][camera] for row in rows]) for camera in CAMERAS}
    mean = {camera: windows.outputs[camera][:].mean(0) for camera in CAMERAS}
    with torch.no_grad():
        cond = template.encode(state=state, outputs=seen)[0]
    assert isinstance(cond, Tensor)
    return Demonstrations(
        template, cond, actions, is_pad, windows.episode_of, mean, without_images(template, state, mean), inputs
    )


@torch.no_grad()
def without_images(policy: ObservedPolicy, state: Tensor, mean: dict[str, Tensor]) -> Tensor:
    """Return the condition (b c) of a state (b s d) with the mean keypoints (w,) in place of those of every image."""
    cond = policy.encode(state=state, outputs={camera: x.expand(*state.shape[:2], -1) for camera, x in mean.items()})[0]
    assert isinstance(cond, Tensor)
    return cond


def policy_of(cell: Cell, data: Demonstrations, folder: Path) -> ObservedPolicy:
    """Return the trained policy of a cell."""
    kept = torch.from_numpy(first_episodes(data.episode, cell.demos, folder / cell.task))
    place = folder / "policies" / cell.policy
    cond, blind, actions, is_pad = (each[kept] for each in (data.cond, data.blind, data.actions, data.is_pad))
    return trained(cell, HEAD, data.template, cond, blind, actions, is_pad, place, data.inputs)


def run(cell: Cell, data: Demonstrations, folder: Path, seeds: range) -> dict[str, Any]:
    """Train the policy of a cell and roll it out from these seeds."""
    observed = policy_of(cell, data, folder)
    began = cpu()
    noise, contract, blind = torch.Generator().manual_seed(cell.seed), observed.contract, cell.mode == "blind"

    def without(seen: dict[str, np.ndarray]) -> np.ndarray:
        cond = without_images(observed, torch.from_numpy(seen["state"]).float(), data.mean)
        with torch.no_grad():
            return observed.policy.sample(cond, generator=noise, steps=cell.denoising).numpy()

    cameras = {} if blind else {name: size[0] for name, size in contract.sizes.items()}
    result = rollout(
        cell.task,
        without if blind else actor(observed, description(cell.task), noise, steps=cell.denoising),
        seeds,
        execute=EXECUTE,
        batch=AT_ONCE,
        workers=1,
        progress=False,
        sight=Sight(contract.state, cameras, OBSERVED),
    )
    outcome = {"successes": int(result.success.sum()), "episodes": len(seeds), "rollout_cpu_seconds": cpu() - began}
    return {
        **asdict(cell),
        **observed.training_record,
        **outcome,
        "outcomes": [bool(success) for success in result.success],
        "inputs": data.inputs,
    }


def cpu() -> int:
    """Return the CPU seconds of this process and of the simulations that it has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(each.ru_utime + each.ru_stime for each in used))


def finished() -> list[dict[str, Any]]:
    """Return the finished cells."""
    return read_results("images", [])


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--encoder", default="outputs/encoders/mobilenetv2", help="folder or Hub id of the encoder")
    parser.add_argument("--data", type=Path, default=Path("outputs/images"), help="folder of the recordings")
    every = TASKS + MIMICGEN
    parser.add_argument("--only", nargs="*", default=every, choices=every, metavar="TASK", help="tasks to run")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further cell after so many minutes")
    parser.add_argument("--episodes", type=int, default=50, help="rollouts of a cell; one that had fewer is continued")
    options = parser.parse_args()
    began, read = time.monotonic(), {}
    for cell in CELLS:
        place = options.data / cell.task
        before = row_of(finished(), asdict(cell)) or dict.fromkeys(ADDED, 0)
        whole = before["episodes"] >= options.episodes
        # A finished row with a hash is compared with what is there now. Earlier rows have none.
        if cell.task not in options.only or not place.exists() or (whole and "inputs" not in before):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        if place not in read:
            read = {place: demonstrations(place, options.encoder)}
        check_row("images", before, asdict(cell), read[place].inputs)
        if whole:
            continue
        row = run(cell, read[place], options.data, range(before["episodes"], options.episodes))
        row |= {key: row[key] + before[key] for key in ADDED}
        row["outcomes"] = before.get("outcomes", []) + row["outcomes"]
        if len(row["outcomes"]) < row["episodes"]:  # rows of older releases hold no outcomes of single episodes
            del row["outcomes"]
        row["interval"] = wilson(row["successes"], row["episodes"])
        print(json.dumps(row), flush=True)
        row = stamped(row, before if before["episodes"] else None)
        write_results("images", with_row(finished(), asdict(cell), row))


if __name__ == "__main__":
    main()
