"""Sort results into the cells of tables, so that no cell mixes two configurations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from action_heads_lab.reproduce.config import ALL_MODES, CODE, EXPERTS, Run
from action_heads_lab.reproduce.families import FAMILIES, Family
from action_heads_lab.reproduce.results import Result

# Parts of a protocol that its title leaves out.
USUAL = {"data": "demonstrations of the experts", "hidden": "default hidden width", "checkpoints": "one checkpoint"}
# Settings that a family chooses for each task. They may differ between the rows of a table, but not within a cell.
OF_TASK = ("task", "demos", "steps")


@dataclass(frozen=True)
class Key:
    """The key of a cell, which holds all training seeds of one task, backbone and mode."""

    task: str
    backbone: str
    mode: str


@dataclass
class Table:
    """A table of all results with the same settings except task, backbone, mode and seed."""

    protocol: dict[str, Any]
    cells: dict[Key, list[Result]] = field(default_factory=lambda: defaultdict(list))

    @property
    def family(self) -> Family:
        """The family of the tasks."""
        return FAMILIES[self.protocol["family"]]

    @property
    def on_other_assets(self) -> bool:
        """Whether the runs had other assets than those that `action-heads setup` installs."""
        return self.protocol["assets"] != self.family.assets

    @property
    def results(self) -> list[Result]:
        """The results of all cells."""
        return [result for cell in self.cells.values() for result in cell]

    def cell(self, task: str, backbone: str, mode: str) -> list[Result]:
        """Return the results of a cell, which are none if it was not run."""
        return self.cells.get(Key(task, backbone, mode), [])

    def modes(self, task: str, backbone: str) -> dict[str, list[Result]]:
        """Return the results of a task by mode, for each compared mode."""
        return {mode: self.cell(task, backbone, mode) for mode in ALL_MODES}

    def pooled(self, backbone: str) -> dict[str, list[Result]]:
        """Return the results of all tasks by mode, for the task and seed pairs that were run in every compared mode.

        With other pairs in one mode than in another, the modes would differ because the tasks do.
        """
        tasks = dict.fromkeys(key.task for key in self.cells if key.backbone == backbone)
        by_mode = {
            mode: {(t, r.run.seed): r for t in tasks for r in self.cell(t, backbone, mode)} for mode in ALL_MODES
        }
        shared = [pair for pair in by_mode[ALL_MODES[0]] if all(pair in found for found in by_mode.values())]
        return {mode: [found[pair] for pair in shared] for mode, found in by_mode.items()}

    @property
    def parts(self) -> dict[str, str]:
        """The protocol as text, in parts."""
        p = self.protocol
        of_libero, last = p["family"] == "libero", p["checkpoints"] > 1
        found = {
            "observation": f"{p['observation'].capitalize()}s",
            "data": USUAL["data"] if p["data"] == EXPERTS else p["data"],
            "head": f"head {p['head']!r}",
            "stage1": f"Stage 1 on {' and '.join(p['stage1'])} with signal {p['signal']}",
            "adapter": f"{p['adapter']} through {p['through']}",
            "hidden": f"hidden width {p['hidden']}" if p["hidden"] else USUAL["hidden"],
            "assets": f"{p['assets'] or 'unknown'} assets" if of_libero or p["assets"] else "",
            "episodes": f"{p['episodes']} episodes {'of each task' if of_libero else 'per run'}",
            "checkpoints": f"last of {p['checkpoints']} checkpoints" if last else USUAL["checkpoints"],
        }
        return {name: text for name, text in found.items() if text}

    @property
    def title(self) -> str:
        """The protocol as one text."""
        return ", ".join(text for name, text in self.parts.items() if text != USUAL.get(name))


def protocol_of(run: Run) -> dict[str, Any]:
    """Return the settings that all runs of a table share."""
    return {key: value for key, value in run.condition.items() if key not in (*OF_TASK, "backbone")}


def tables(results: Iterable[Result]) -> list[Table]:
    """Return one table per protocol, those with most cells first, and then those with most episodes.

    Tables on other assets than those of the family come last.

    Controls start from random weights, so those on heads without a motion code belong to the tables of every signal
    without one.

    Raises:
        ValueError: two results of different settings, heads or versions belong to one cell. The message names both.
    """
    results = list(results)
    found: dict[str, Table] = {}
    protocols = {str(p): p for p in (protocol_of(r.run) for r in results if r.run.uses_pretraining)}
    for result in results:
        run = result.run
        for protocol in _protocols(run, protocols.values()):
            table = found.setdefault(str(protocol), Table(protocol))
            cell = table.cells[Key(run.task, run.backbone, run.mode)]
            for other in cell:
                _check_alike(result, other)
            cell.append(result)
    return sorted(
        found.values(), key=lambda table: (table.on_other_assets, -len(table.cells), -table.protocol["episodes"])
    )


def _protocols(run: Run, pretrained: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the protocols of the tables that a run belongs to. `pretrained` are those of runs on pretrained heads."""
    own = protocol_of(run)
    if run.uses_pretraining or run.signal == CODE:
        return [own]
    return [p for p in pretrained if p["signal"] != CODE and p | {"signal": run.signal} == own] or [own]


def _check_alike(one: Result, other: Result) -> None:
    """Refuse two results of a cell that differ in more than the seed."""
    differs = [name for name in (*OF_TASK, "relearn_step") if getattr(one.run, name) != getattr(other.run, name)]
    if one.run.seed == other.run.seed:
        differs.append("the id only: two runs of one seed")
    if one.run.uses_pretraining and not _one_head(one, other):
        differs.append("the pretrained head")
    if differs:
        raise ValueError(
            f"two configurations belong to one cell, {one.run.task} {one.run.backbone} {one.run.mode}: "
            f"{_name(one)} and {_name(other)} differ in {', '.join(differs)}. Keep one of them in the results folder, "
            "or report on each of two folders, such as the published results and your own"
        )


def _one_head(one: Result, other: Result) -> bool:
    """Return whether both used the same head, or heads pretrained with the same settings of Stage 1.

    The name of a head that `reproduce` pretrains ends in a hash of these settings. Its fingerprint may differ, since
    processors round differently.
    """
    if one.head["fingerprint"] == other.head["fingerprint"]:
        return True
    name = str(one.head["name"])
    return name == other.head["name"] and re.search(r"-[0-9a-f]{8}$", name) is not None


def _name(result: Result) -> str:
    run: Run = result.run
    return f"{result.id} (seed {run.seed}, {run.demos} demos, {run.steps} steps, head {result.head['fingerprint']})"
