"""Results sorted into the cells of tables, such that no cell ever mixes two configurations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from action_heads_lab.reproduce.config import ALL_MODES, EXPERTS, Run
from action_heads_lab.reproduce.results import Result

# What a family sets for each of its tasks; within one table it may differ from row to row, never within a cell.
OF_TASK = ("task", "demos", "steps")


@dataclass(frozen=True)
class Key:
    """A cell: all training seeds of one task, backbone and mode."""

    task: str
    backbone: str
    mode: str


@dataclass
class Table:
    """All results under one protocol: the same settings but for task, backbone, mode and seed."""

    protocol: dict[str, Any]
    cells: dict[Key, list[Result]] = field(default_factory=lambda: defaultdict(list))

    def cell(self, task: str, backbone: str, mode: str) -> list[Result]:
        """Its results, none if it was not run."""
        return self.cells.get(Key(task, backbone, mode), [])

    def complete(self, backbone: str) -> list[str]:
        """Tasks that are run under every mode compared."""
        tasks = dict.fromkeys(key.task for key in self.cells)
        return [task for task in tasks if all(self.cell(task, backbone, mode) for mode in ALL_MODES)]

    @property
    def title(self) -> str:
        """The protocol in words."""
        p = self.protocol
        way = f"{p['adapter']} through {p['through']}" + (f", {p['hidden']} wide" if p["hidden"] else "")
        stage1 = f"Stage 1 on {' and '.join(p['stage1'])} by {p['signal']}"
        tries = f"{p['episodes']} episodes {'of each task of a suite' if p['family'] == 'libero' else 'a run'}"
        data = "" if p["data"] == EXPERTS else f"{p['data']}, "
        return f"{p['observation'].capitalize()}s, {data}head {p['head']!r}, {stage1}, {way}, {tries}"


def protocol_of(run: Run) -> dict[str, Any]:
    """What all runs of a table have in common."""
    return {key: value for key, value in run.condition.items() if key not in (*OF_TASK, "backbone")}


def tables(results: Iterable[Result]) -> list[Table]:
    """One table a protocol, the fullest first.

    Raises:
        ValueError: two results of different settings, heads or versions claim one cell. It names both.
    """
    found: dict[str, Table] = {}
    for result in results:
        protocol = protocol_of(result.run)
        table = found.setdefault(str(sorted(protocol.items())), Table(protocol))
        run = result.run
        cell = table.cells[Key(run.task, run.backbone, run.mode)]
        for other in cell:
            _check_alike(result, other)
        cell.append(result)
    return sorted(found.values(), key=lambda table: -len(table.cells))


def _check_alike(one: Result, other: Result) -> None:
    """Of the same cell: nothing but the seed may differ."""
    differs = [name for name in (*OF_TASK, "relearn_step") if getattr(one.run, name) != getattr(other.run, name)]
    if one.run.seed == other.run.seed:
        differs.append("nothing but the id: two runs of one seed")
    if one.run.uses_pretraining and not _one_head(one, other):
        differs.append("the pretrained head")
    if differs:
        raise ValueError(
            f"two configurations claim one cell, {one.run.task} {one.run.backbone} {one.run.mode}: "
            f"{_name(one)} and {_name(other)} differ in {', '.join(differs)}. Keep one of them in the results folder, "
            "or report on two folders, such as the published results and your own"
        )


def _one_head(one: Result, other: Result) -> bool:
    """Tell whether both used the same head, or heads that were pretrained by the same settings of Stage 1.

    The name of a head that `reproduce` pretrains ends in a hash of these settings. Its fingerprint may differ: another
    processor rounds otherwise.
    """
    if one.head["fingerprint"] == other.head["fingerprint"]:
        return True
    name = str(one.head["name"])
    return name == other.head["name"] and re.search(r"-[0-9a-f]{8}$", name) is not None


def _name(result: Result) -> str:
    run: Run = result.run
    return f"{result.id} (seed {run.seed}, {run.demos} demos, {run.steps} steps, head {result.head['fingerprint']})"
