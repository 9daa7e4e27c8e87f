r"""LIBERO from images: one policy for the ten tasks of a suite, on cached keypoints of a frozen encoder and words.

A policy observes two cameras, the state of the arm and the sentence of its task. It is rolled out from the suite's
init states in their order. The outcome of every task is written to benchmarks/results/libero_images.json as soon as it
is there, so a run that was killed goes on, and more episodes continue those that are finished.

    for i in 0 1 2 3 4 5 6 7 8 9; do
      uv run action-heads record libero_object/$i outputs/libero/libero_object-$i --demos 10 --size 128 \
        --cameras agentview robot0_eye_in_hand --workers 1
    done
    uv run benchmarks/libero_images.py --encoder outputs/encoders/mobilenetv2 --text outputs/encoders/minilm
    uv run benchmarks/libero_images.py --small --mode decoupled random-frozen [--encoder ... --text ...]
    uv run benchmarks/libero_images.py --page    # fills docs/results/libero-images.md with all finished runs

Axes: N rows, c condition, h horizon, a action.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from action_heads_lab.policies import actor
from action_heads_lab.sim import libero_tasks
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.rollout import rollout
from action_heads_lab.sim.tasks import INIT_STATES, description
from common import check_row, command_line, read_results, row_of, stamped, with_row, write_results
from libero_cells import EPISODES, MODES, SMALL, SUITES, Cell
from libero_images_report import NAME, page
from on_features import first_episodes, trained
from torch import Tensor

from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig, Columns, Text, Vision
from action_heads.io.contents import combined
from action_heads.observed_policy import ObservedPolicy

CAMERAS = ("agentview", "robot0_eye_in_hand")
EXECUTE, DENOISING = 8, 10


class Demonstrations(NamedTuple):
    """The training data of a suite, and the parts of its policies that no mode changes."""

    template: ObservedPolicy
    cond: Tensor  # (N c): keypoints, state, words
    actions: Tensor  # (N h a)
    is_pad: Tensor  # (N h)
    images: int  # numbers of the condition that come from images, which are its first
    inputs: dict[str, str]  # a hash of the recordings, of both encoders and of the head


def recordings(cell: Cell, folder: Path) -> list[Path]:
    """Return the recording of every task of a cell."""
    return [folder / task.replace("/", "-") for task in tasks_of(cell)]


def tasks_of(cell: Cell) -> list[str]:
    """Return the tasks of a cell, in the order of their suite."""
    return libero_tasks.of_suite(cell.suite)[: cell.tasks]


def demonstrations(cell: Cell, folder: Path, encoder: str, text: str) -> Demonstrations:
    """Read the recordings of a suite with their keypoints, as `action-heads adapt --train-encoder cached` does."""
    found = [_read(cell, place, encoder, text) for place in recordings(cell, folder)]
    for other in found[1:]:  # the policy of the suite knows the sentences of all tasks
        found[0].template.encoder.text.known.update(other.template.encoder.text.known)  # type: ignore[union-attr]
    cond, actions, is_pad = (torch.cat([getattr(one, name) for one in found]) for name in ("cond", "actions", "is_pad"))
    inputs = found[0].inputs | {"--data": combined([one.inputs["--data"] for one in found])}
    return Demonstrations(found[0].template, cond, actions, is_pad, found[0].images, inputs)


def _read(cell: Cell, place: Path, encoder: str, text: str) -> Demonstrations:
    config = AdaptConfig(
        data=f"lerobot:{place}",
        head=cell.head,
        actions=Columns("action.delta", "delta"),
        cameras=CAMERAS,
        vision=Vision(encoder, "cached", pool="keypoints", stride=16),
        text=Text(text),
        observation_steps=1,
        held_out=0.0,
        workers=0,
    )
    template, windows, _, inputs = build(config)
    assert windows.outputs is not None
    kept = np.flatnonzero(first_episodes(windows.episode_of, cell.demos, place))
    rows = [windows[i] for i in kept]
    seen = {camera: windows.outputs[camera][kept].unsqueeze(1) for camera in CAMERAS}
    words = [windows.recording.tasks[row["task"]] for row in rows]
    with torch.no_grad():
        cond = template.encode(state=windows.state[kept].unsqueeze(1), task=words, outputs=seen)[0]
    assert isinstance(cond, Tensor)
    actions, is_pad = (torch.stack([row[key] for row in rows]) for key in ("actions", "is_pad"))
    return Demonstrations(template, cond, actions, is_pad, len(CAMERAS) * template.encoder.features, inputs)


def policy_of(cell: Cell, data: Demonstrations, folder: Path) -> ObservedPolicy:
    """Return the trained policy of a cell."""
    place = folder / "policies" / "-".join(str(value).replace("/", "-") for value in asdict(cell).values())
    blind = without_images(data, data.cond[:, data.images :])
    return trained(cell, cell.head, data.template, data.cond, blind, data.actions, data.is_pad, place, data.inputs)


def without_images(data: Demonstrations, rest: Tensor) -> Tensor:
    """Return the condition (b c) of states and words (b d) with the mean keypoints of all demonstrations."""
    return torch.cat([data.cond[:, : data.images].mean(0).expand(len(rest), -1), rest], dim=-1)


def roll_out(cell: Cell, observed: ObservedPolicy, data: Demonstrations, task: str, seeds: range) -> list[bool]:
    """Roll out a policy in a task from these init states, and return which episodes succeed."""
    noise, contract = torch.Generator().manual_seed(1000 * cell.seed + seeds[0]), observed.contract
    sizes = {name: size[0] for name, size in contract.sizes.items()}
    sight, act = Sight(contract.state, sizes, 1, delta=True), actor(observed, description(task), noise, steps=DENOISING)

    def blind(seen: dict[str, np.ndarray]) -> np.ndarray:
        state = torch.from_numpy(seen["state"][:, -1]).float()
        words = observed.encoder.text.known[description(task)].expand(len(state), -1)  # type: ignore[union-attr]
        with torch.no_grad():
            cond = without_images(data, torch.cat([state, words], dim=-1))
            return observed.policy.sample(cond, generator=noise, steps=DENOISING).numpy()

    if cell.mode == "blind":
        sight, act = replace(sight, cameras={}), blind
    # One episode at a time, since every further one would need a simulation of its own.
    result = rollout(task, act, seeds, execute=EXECUTE, batch=1, workers=1, progress=False, sight=sight)
    return result.success.tolist()


def finished(name: str = NAME) -> list[dict[str, Any]]:
    """Return the rows of all cells that were begun. `rolled` holds the successes of each task."""
    return read_results(name, [])


def run(
    cell: Cell,
    data: Demonstrations,
    folder: Path,
    episodes: int,
    until: float,
    tasks: Iterable[str] | None = None,
    name: str = NAME,
) -> None:
    """Train the policy of a cell and roll it out in every task, and write the results after each.

    Args:
        cell: its settings.
        data: the demonstrations of its suite.
        folder: where the recordings are, and the policies are kept.
        episodes: rollouts of each task.
        until: time, of `time.monotonic`, after which no task begins.
        tasks: the tasks to roll out; by default those of the cell.
        name: the results to write.
    """
    for task in tasks_of(cell) if tasks is None else tasks:
        rows = finished(name)
        begun = row_of(rows, asdict(cell))
        row = begun or {**asdict(cell), "rolled": {}}
        check_row(name, row, asdict(cell), data.inputs)
        before = row["rolled"].get(task, [])
        if len(before) >= episodes or time.monotonic() > until:
            continue
        observed, began = policy_of(cell, data, folder), time.monotonic()
        successes = roll_out(cell, observed, data, task, range(len(before), episodes))
        spent = row.get("rollout_seconds", 0) + round(time.monotonic() - began)
        now = row | observed.training_record | {"rollout_seconds": spent, "inputs": data.inputs}
        now["rolled"] = row["rolled"] | {task: before + successes}
        print(f"{cell.mode} {task}: {sum(now['rolled'][task])} of {len(now['rolled'][task])}", flush=True)
        write_results(name, with_row(rows, asdict(cell), stamped(now, begun)))


def command(about: str | None, modes: Iterable[str] = MODES, episodes: int = EPISODES) -> argparse.ArgumentParser:
    """Return a parser of the options of all rollouts of these policies, with the modes and rollouts that are usual."""
    parser = command_line(about)
    parser.add_argument("--suite", nargs="*", default=["libero_object"], choices=SUITES, help="suites to run")
    parser.add_argument("--mode", nargs="*", default=modes, choices=MODES, help="modes to run")
    parser.add_argument("--encoder", default="outputs/encoders/mobilenetv2", help="folder or Hub id of the encoder")
    parser.add_argument("--text", default="outputs/encoders/minilm", help="folder or Hub id of the text model")
    parser.add_argument("--data", type=Path, default=Path("outputs/libero"), help="folder of the recordings")
    parser.add_argument("--head", default=Cell.head, help="delta head")
    parser.add_argument(
        "--episodes", type=int, default=episodes, help="rollouts of each task; more continue finished ones"
    )
    parser.add_argument("--minutes", type=float, default=60, help="begin no further task after so many minutes")
    parser.add_argument("--page", action="store_true", help="run nothing, and fill the page")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options, or end the program if they ask for more rollouts than there are starts."""
    options = parser.parse_args()
    if options.episodes > INIT_STATES:
        parser.error(f"--episodes {options.episodes} is more than the {INIT_STATES} init states of a LIBERO task")
    return options


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--tasks", type=int, default=Cell.tasks, help="the first so many tasks of a suite, for a trial")
    parser.add_argument("--demos", type=int, default=Cell.demos, help="demonstrations of each task")
    parser.add_argument("--small", action="store_true", help="the small adapter, through the code alone")
    parser.add_argument("--steps", type=int, help=f"training steps: {Cell.steps}, and {SMALL['steps']} with --small")
    options = parsed(parser)
    effort = {"tasks": options.tasks, "head": options.head, "demos": options.demos}
    steps = {} if options.steps is None else {"steps": options.steps}
    size = SMALL if options.small else {}
    cells = [Cell(suite, mode, **effort | size | steps) for suite in options.suite for mode in options.mode]
    until, read = time.monotonic() + 60 * options.minutes, {}
    for cell in () if options.page else cells:
        if missing := [str(place) for place in recordings(cell, options.data) if not place.exists()]:
            parser.error(f"no recording in {', '.join(missing)}. Make it with `action-heads record`, as --help shows")
        if cell.suite not in read:
            read = {cell.suite: demonstrations(cell, options.data, options.encoder, options.text)}
        run(cell, read[cell.suite], options.data, options.episodes, until)
    page()


if __name__ == "__main__":
    main()
