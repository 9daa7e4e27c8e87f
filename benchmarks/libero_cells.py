"""The training runs of LIBERO from images: those that are planned, and the names of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from comparisons import NAMES

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
TITLES: dict[str, str] = dict(zip(SUITES, ("LIBERO-Spatial", "LIBERO-Object", "LIBERO-Goal", "LIBERO-10"), strict=True))
MODES = ("decoupled", "normal", "random-frozen", "blind")
EPISODES = 5  # rollouts of each task
MLP = "dae/mlp-5m-fk-delta"
SMALL: dict[str, Any] = {"through": "code", "hidden": 64, "lr": 1e-2, "steps": 1000}  # the small adapter


@dataclass(frozen=True)
class Cell:
    """One training run, for the tasks of a suite. `blind` is the mode decoupled with mean keypoints for every image."""

    suite: str
    mode: str = "decoupled"
    tasks: int = 10  # the first so many of the suite
    head: str = "dae/mixer-5m-fk-delta"
    demos: int = 10  # of each task
    through: str = "both"
    hidden: int = 256
    lr: float = 2.5e-3
    steps: int = 2000
    seed: int = 0

    @property
    def is_small(self) -> bool:
        return self.through == SMALL["through"]

    @property
    def per_step(self) -> bool:
        """Whether every time step has its own code, which no run has here."""
        return False


def systems(head: str = Cell.head) -> list[Cell]:
    """Return the planned systems of a head, for no suite yet."""
    if head != Cell.head:
        return [Cell("", mode, head=head) for mode in ("decoupled", "normal", "random-frozen")]
    return [Cell("", mode) for mode in MODES] + [Cell("", mode, **SMALL) for mode in ("decoupled", "random-frozen")]


PLANNED = [replace(system, suite=suite) for head in (Cell.head, MLP) for suite in SUITES for system in systems(head)]


def cell_of(row: Mapping[str, Any]) -> Cell:
    """Return the cell of a row of results."""
    return Cell(**{name: row[name] for name in Cell.__dataclass_fields__})


def named(cell: Cell) -> str:
    """Return the name of a run in tables and figures. Its suite and its head are not in it."""
    usual = Cell("", **SMALL) if cell.is_small else Cell("")
    name = NAMES.get(cell.mode, cell.mode) + ", small adapter" * cell.is_small
    units = {"demos": "demonstrations a task", "steps": "training steps", "hidden": "hidden units"}
    given, expected = asdict(cell), asdict(usual)
    return ", ".join([name, *(f"{given[key]:,} {unit}" for key, unit in units.items() if given[key] != expected[key])])
