"""Averages over all tasks of a family, of results that may differ in their number of episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from action_heads_lab.reproduce.cells import Key, Table
from action_heads_lab.reproduce.config import ALL_MODES
from action_heads_lab.reproduce.results import Episode, Result


@dataclass(frozen=True)
class Average:
    """The results of one backbone in the modes that were run on every task, with equally many episodes of each.

    `results` are by mode, and hold the training seeds that all of these tasks and modes share. `missing` has the tasks
    that a mode lacks.
    """

    episodes: int = 0  # of each task; on LIBERO the first so many init states
    results: dict[str, list[Result]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Return whether every compared mode has its average."""
        return self.results.keys() == set(ALL_MODES)

    @property
    def lacking(self) -> list[str]:
        """The tasks that any mode lacks."""
        return list(dict.fromkeys(task for tasks in self.missing.values() for task in tasks))


def alike(found: Iterable[Table]) -> list[list[Table]]:
    """Return the tables in groups that differ in the number of episodes only, in the order of their first tables."""
    groups: dict[str, list[Table]] = defaultdict(list)
    for table in found:
        groups[str(table.protocol | {"episodes": None})].append(table)
    return list(groups.values())


def average(group: Sequence[Table], backbone: str, tasks: Sequence[str]) -> Average:
    """Return the average of a group of `alike`. Of runs that differ only in episodes, that with most counts."""
    runs: dict[str, dict[tuple[str, int], Result]] = {mode: {} for mode in ALL_MODES}
    for table in sorted(group, key=lambda table: table.protocol["episodes"]):
        for mode, by_run in runs.items():
            by_run |= {(task, r.run.seed): r for task in tasks for r in table.cell(task, backbone, mode)}
    missing = {mode: [task for task in tasks if task not in {name for name, _ in runs[mode]}] for mode in ALL_MODES}
    whole = [mode for mode in ALL_MODES if not missing[mode]]
    shared = {seed for by_run in runs.values() for _, seed in by_run}
    seeds = sorted(s for s in shared if all((task, s) in runs[mode] for mode in whole for task in tasks))
    if not whole or not seeds:
        return Average(missing=missing)
    chosen = {mode: [runs[mode][task, seed] for task in tasks for seed in seeds] for mode in whole}
    episodes = min(result.run.episodes for results in chosen.values() for result in results)
    return Average(episodes, {mode: [first(episodes, r) for r in chosen[mode]] for mode in whole}, missing)


def together(group: Sequence[Table], whole: Average) -> Table:
    """Return the results of an average of a group as a table of their own."""
    found = Table(group[0].protocol | {"episodes": whole.episodes})
    for mode, results in whole.results.items():
        for r in results:
            found.cells[Key(r.run.task, r.run.backbone, mode)].append(r)
    return found


def first(count: int, result: Result) -> Result:
    """Return a result with the first episodes only, so many of each task that its policy was rolled out in."""
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in result.episodes:
        by_task[episode.task].append(episode)
    kept = tuple(episode for part in by_task.values() for episode in part[:count])
    return replace(result, episodes=kept, run=replace(result.run, episodes=count))
