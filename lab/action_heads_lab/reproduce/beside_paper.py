"""Write Table II of the paper with our rows under theirs, our tables in every mode, and what is not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from action_heads_lab.reproduce import missing, paper
from action_heads_lab.reproduce.averages import Average, alike, average, together
from action_heads_lab.reproduce.cells import Table, tables
from action_heads_lab.reproduce.families import FAMILIES
from action_heads_lab.reproduce.markdown import best_text, cell_text, intervals, modes_table, titled
from action_heads_lab.reproduce.results import Result

FEW = 3  # missing tasks that the column of averages names; the row shows more


def beside_paper(family: str, found: Sequence[Result]) -> str:
    """Return Table II of the paper with our rows under theirs, each table of ours in every mode, and the missing runs.

    If there are several tables, our rows have their number. Tables on other assets than those of the family stand at
    the end and not beside the paper's, unless there are no others.
    """
    tasks, rows = list(paper.TASKS[family]), paper.PRINTED[family]
    lines = [
        f"| system | mode | results | {' | '.join(f'`{task}`' for task in tasks)} | average |",
        f"|---|---|---|{'---:|' * (len(tasks) + 1)}",
    ]
    everything = _labels(tables(found))
    ours = {label: table for label, table in everything.items() if not table.on_other_assets} or everything
    for (backbone, mode), values in rows.items():
        name = f"{paper.NAMES[backbone]} (`{backbone}`) | {mode}"
        lines.append(f"| {name} | paper | {' | '.join(values.split())} |")
        own = _ours(ours, tasks, backbone, mode)
        none = [f"**ours** | {'not run | ' * len(tasks)}"] if ours else []
        lines += [f"| {name} | {row} |" for row in own or none]
    apart = [f"- *{label.capitalize()}*: {text}." for label, text in _apart(everything).items()]
    each = {label: titled(table, f"{label.capitalize()}: {table.title}", tasks) for label, table in everything.items()}
    above = [*(each.pop(label) for label in ours), *_over_tables(ours, tasks)]
    explained = intervals(FAMILIES[family].unit) if above else "We have no runs of this family."
    below = ["### On other assets", *each.values()] if each else []
    parts = ["\n".join(lines), "\n".join(apart), *above, explained]
    return "\n\n".join([*filter(None, parts), missing.of_table_2(family, found), *below])


def _labels(found: Sequence[Table]) -> dict[str, Table]:
    """Return tables by the name that their rows have beside those of the paper."""
    return {f"ours ({i})" if len(found) > 1 else "ours": table for i, table in enumerate(found, 1)}


def _apart(ours: Mapping[str, Table]) -> dict[str, str]:
    """Return for each of several tables the parts of its title in which they differ."""
    shared = set.intersection(*(set(table.parts.values()) for table in ours.values())) if len(ours) > 1 else None
    if shared is None:
        return {}
    return {
        label: ", ".join(part for part in table.parts.values() if part not in shared) for label, table in ours.items()
    }


def _ours(ours: Mapping[str, Table], tasks: Sequence[str], backbone: str, mode: str) -> list[str]:
    """Return our rows of a system with their averages.

    Tables that differ in the number of episodes only share an average. If together they have all tasks, it has a row of
    its own, over equally many episodes of each.
    """
    rows, averages = {}, []
    for group in alike(ours.values()):
        whole = average(group, backbone, tasks)
        shared = len(group) > 1 and mode in whole.results
        for label, table in ours.items():
            cells = [table.cell(task, backbone, mode) for task in tasks]
            if table in group and any(cells):
                last = "" if shared else _average(whole, mode)
                rows[label] = [f"**{label}** | {' | '.join(map(cell_text, cells))} | {last}"]
                if (tried := table.protocol["checkpoints"]) > 1:
                    best = " | ".join(map(best_text, cells))
                    rows[label].append(f"**{label}**, best of {tried} checkpoints | {best} | ")
        if shared:
            cells = [[r for r in whole.results[mode] if r.run.task == task] for task in tasks]
            name = f"**{_joint(ours, group)}**, {_first(whole)}"
            averages.append(f"{name} | {' | '.join(map(cell_text, cells))} | {_average(whole, mode)}")
    return [*(row for label in ours for row in rows.get(label, [])), *averages]


def _over_tables(ours: Mapping[str, Table], tasks: Sequence[str]) -> list[str]:
    """Return a table in every mode of each average that several tables share."""
    parts = []
    for group in (group for group in alike(ours.values()) if len(group) > 1):
        for backbone in dict.fromkeys(key.backbone for table in group for key in table.cells):
            whole = average(group, backbone, tasks)
            if whole.complete:
                title = f"{_joint(ours, group).capitalize()}, {_first(whole)}"
                parts.append(f"**{title}.**\n\n{modes_table(together(group, whole), tasks, [backbone])}")
    return parts


def _joint(ours: Mapping[str, Table], group: Sequence[Table]) -> str:
    """Return the label of a group of our tables."""
    numbers = ", ".join(label.removeprefix("ours ") for label, table in ours.items() if table in group)
    return f"ours {numbers}"


def _first(whole: Average) -> str:
    return f"first {whole.episodes} episodes of each task"


def _average(whole: Average, mode: str) -> str:
    """Return the average of a mode, or the tasks that it lacks."""
    if mode in whole.results:
        return cell_text(whole.results[mode])
    lacking = whole.missing[mode]
    if len(lacking) > FEW:
        return f"{len(lacking)} tasks not run"
    return f"not run: {', '.join(f'`{task}`' for task in lacking)}" if lacking else "no training seed in common"
