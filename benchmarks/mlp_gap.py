"""What closes the gap of a frozen `mlp` to normal training: changes of Stage 1 and of the adapter on two tasks.

Stage 2 is that of the paper's comparison, from states, on the tasks where `mlp` loses most. All runs of a task start
from the same seeds. Finished runs are kept in benchmarks/results/mlp_gap.json, and a command that was killed goes on.

    uv run benchmarks/mlp_gap.py [--only code-16 ...] [--seeds 0 42]    # a run of each task and seed
    uv run benchmarks/mlp_gap.py --page    # runs nothing, and fills the page
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import stage1_spread
from action_heads_lab.reproduce import heads, results
from action_heads_lab.reproduce.config import SEEDS, Place, Run
from action_heads_lab.reproduce.grid import PUBLISHED as RESULTS
from action_heads_lab.reproduce.grid import only_run
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.run import perform
from action_heads_lab.reproduce.statistics import Paired, counted
from action_heads_lab.sim.interval import success_text
from common import (
    DOCS,
    Row,
    command_line,
    fill,
    made_text,
    read_results,
    row_of,
    stamped,
    table,
    with_row,
    write_results,
)
from torch import Generator, Tensor, device

from action_heads.diffusion.levels import LEVELS, beta
from action_heads.pretrain.settings import PretrainConfig

NAME = "mlp_gap"
TASKS = ("Stack", "NutAssemblySquare")
CLEANER = "cleaner"
PUBLISHED = RESULTS / "robosuite"  # of the paper's comparison


def cleaner(steps: int, shape: tuple[int, ...], generator: Generator | None, device: device) -> Tensor:
    """Prefer the levels near zero: π0's distribution `beta`, mirrored."""
    return steps - 1 - beta(steps, shape, generator, device)


@contextmanager
def cleaner_is_known() -> Iterator[None]:
    """Let Stage 1 find `cleaner` by its name, which the library does not know otherwise."""
    LEVELS[CLEANER] = cleaner
    try:
        yield
    finally:
        del LEVELS[CLEANER]


@dataclass(frozen=True)
class System:
    """A system of the table, by how its Stage 1 and Stage 2 differ from those of the comparison."""

    name: str
    about: str
    longer: int = 1  # training steps of Stage 1, as a multiple of the usual ones
    stage1: dict[str, Any] = field(default_factory=dict)  # settings of `PretrainConfig`
    mode: str = "decoupled"
    recipe: str = "paper"


SYSTEMS = [
    System("usual", "as in the comparison"),
    System("longer", "ten times the training steps of Stage 1", longer=10),
    System("code-16", "a code of 16 numbers in place of 64", stage1={"rank": 16}),
    System("code-256", "a code of 256 numbers", stage1={"rank": 256}),
    System("cleaner", "Stage 1 prefers noise levels near zero", stage1={"levels": CLEANER}),
    System("both", "an AdaLN-Zero adapter through code and blocks", recipe="both"),
    System("random-frozen", "a random frozen head", mode="random-frozen"),
    System("normal", "normal training", mode="normal"),
]
USUAL = SYSTEMS[0]


def stage1(system: System, work: Path) -> PretrainConfig:
    """Return the settings of Stage 1. Heads without other changes are those of `stage1_spread.py`."""
    usual = stage1_spread.stage1(stage1_spread.Head("mlp", 0, system.longer), work)
    if not system.stage1:
        return usual
    name = f"{usual.name}-{system.name}"
    return replace(usual, name=name, out=work / "heads" / name, **system.stage1)


def run_of(system: System, task: str, seed: int, head: str) -> Run:
    """Return the run of Stage 2, as `examples/robosuite/reproduce.py` does it."""
    given = {"mode": system.mode, "recipe": system.recipe, "seeds": str(seed), "head": head}
    return only_run("robosuite", task=task, backbone="mlp", **given)


def measure(system: System, task: str, seed: int, place: Place) -> Row:
    """Pretrain the head of a system, if that was not done, and return the outcome of its Stage 2."""
    with cleaner_is_known():
        head = stage1_spread.pretrained(stage1(system, place.work), place)
    result = perform(run_of(system, task, seed, head), place)
    return {
        "outcomes": outcomes(result),
        "trained": result.head["trainable"],
        "fingerprint": result.head["fingerprint"],
        "inputs": result.inputs,
        "cpu_seconds": result.seconds["cpu"],
    }


def outcomes(result: Result) -> list[bool]:
    """Return the successes of a run in the order of its starts."""
    return [episode.success for episode in sorted(result.episodes, key=lambda episode: episode.seed)]


def of(rows: list[Row], system: System, task: str) -> dict[int, list[bool]]:
    """Return the outcomes of a system in a task by seed of Stage 2. Those of other modes are the comparison's."""
    if system.mode == "decoupled":
        cell = {"system": system.name, "task": task}
        return {row["seed"]: row["outcomes"] for row in rows if cell.items() <= row.items()}
    found = map(results.load, sorted(PUBLISHED.glob(f"{task}-mlp-{system.mode}-*.json")))
    wanted = {run_of(system, task, seed, heads.SMALL): seed for seed in SEEDS}
    return {wanted[result.run]: outcomes(result) for result in found if result.run in wanted}


def difference(rows: list[Row], first: System, second: System, *tasks: str) -> str:
    """Return the difference in points of two systems on the same starts of tasks with the same seeds."""
    counts = []
    for task in tasks:
        one, other = of(rows, first, task), of(rows, second, task)
        common = sorted(one.keys() & other.keys())
        counts.append(tuple(counted(list(zip(one[seed], other[seed], strict=True))) for seed in common))
    return str(Paired(tuple(counts))) if all(counts) and first != second else ""


def page(rows: list[Row]) -> None:
    """Write the table of the page: a row for each system."""
    lines = []
    for system in SYSTEMS:
        line = [system.about]
        for task in TASKS:
            by_seed = of(rows, system, task)
            done = [success for outcomes in by_seed.values() for success in outcomes]
            line += [success_text(sum(done), len(done)) if done else "not run", difference(rows, system, USUAL, task)]
        lines.append([*line, difference(rows, system, USUAL, *TASKS)])
    header = ["change", *(text for task in TASKS for text in (task, "− first row")), "both tasks, − first row"]
    parts = {"gap": table(header, lines), "made": made_text(NAME, rows)}
    fill(DOCS / "mlp-gap.md", parts)


def main() -> None:
    parser = command_line(__doc__)
    own = [system for system in SYSTEMS if system.mode == "decoupled"]
    names = [system.name for system in own]
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="systems to run")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], choices=SEEDS, help="seeds of Stage 2")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/reproduce"), help="folder of heads, recordings, runs"
    )
    parser.add_argument("--page", action="store_true", help="run nothing, and fill the page")
    options = parser.parse_args()
    # The folder of results is that of `stage1_spread.py`, which has done some of these runs.
    place = Place(results=options.work / stage1_spread.NAME, work=options.work, command=f"benchmarks/{NAME}.py")
    wanted = [] if options.page else [system for system in own if system.name in options.only]
    for seed, system, task in product(options.seeds, wanted, TASKS):
        cell = {"system": system.name, "task": task, "seed": seed}
        if row_of(read_results(NAME, []), cell):
            continue
        row = stamped(cell | measure(system, task, seed, place))
        print(f"{system.name} {task}: {sum(row['outcomes'])} of {len(row['outcomes'])}", flush=True)
        write_results(NAME, with_row(read_results(NAME, []), cell, row))
    page(read_results(NAME, []))


if __name__ == "__main__":
    main()
