"""Figures that compare decoupled, normal and random-frozen training, with the numbers of the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from action_heads._util.extras import require
from action_heads_lab.reproduce import paper
from action_heads_lab.reproduce.averages import Average, alike, average
from action_heads_lab.reproduce.cells import Table
from action_heads_lab.reproduce.config import ALL_MODES
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import rate
from action_heads_lab.sim.interval import error_bars
from action_heads_lab.sim.report import COLOURS
from action_heads_lab.sim.tasks import TASKS

WIDTH = 0.26
AT: dict[str, float] = dict(zip(ALL_MODES, (-WIDTH, 0.0, WIDTH), strict=True))  # where a mode's bar stands in its group


def draw(table: Table, path: Path) -> None:
    """Draw one row per backbone: averages of the paper, ours over all tasks and by task, with 95 % intervals."""
    backbones = _backbones(table)
    figure, axes = _subplots(len(backbones), 3, figsize=(13, 3 * len(backbones) + 0.6), width_ratios=[2, 1.2, 8])
    for (theirs, pooled, each), backbone in zip(axes, backbones, strict=True):
        whole = table.pooled(backbone)
        _groups(pooled, [whole])
        _groups(each, [table.modes(task, backbone) for task in TASKS])
        pooled.set_xticks([0], [_tasks(whole)])
        pooled.set_title("ours, all tasks", fontsize=10)
        each.set_xticks(range(len(TASKS)), [re.sub("(?<=[a-z])(?=[A-Z])", "\n", task) for task in TASKS], fontsize=8)
        each.set_title(f"ours, {backbone}, robosuite on {table.protocol['observation']}s", fontsize=10)
        left = theirs if backbone in paper.NAMES else pooled
        left.set_ylabel("success rate")
        left.tick_params(labelleft=True)
        if backbone in paper.NAMES:
            for i, family in enumerate(paper.TABLE_2):
                _paper(theirs, i, family, backbone, column=-1)
            theirs.set_xticks([0, 1], ["MimicGen", "LIBERO"])
            theirs.set_xlim(-0.6, 1.6)
            theirs.set_title(f"the paper's {paper.NAMES[backbone]}", fontsize=10)
        else:
            theirs.set_visible(False)
    _finish(figure, path)


def draw_beside_paper(family: str, found: Sequence[Table], path: Path) -> None:
    """Draw the rows of Table II, and below them ours, on the same tasks.

    Each task is drawn from the first of our tables that has it, and if there are several, its label has the number of
    that table in `beside_paper`. Our average stands at the right if every mode has all tasks, with equally many
    episodes of each; else the label says which tasks are missing.
    """
    tasks, backbones = list(paper.TASKS[family]), list(dict.fromkeys(name for t in found for name in _backbones(t)))
    theirs = [backbone for backbone in backbones if backbone in paper.NAMES]
    count = len(theirs) + len(backbones)
    figure, axes = _subplots(count, 1, figsize=(13, 2.4 * count + 0.6))
    rows = iter(axes[:, 0])
    for backbone in backbones:
        if backbone in theirs:
            axis = next(rows)
            for i in range(len(tasks) + 1):
                _paper(axis, i, family, backbone, column=i)
            axis.set_title(f"the paper's {paper.NAMES[backbone]}, on images", fontsize=10)
            axis.set_xticks(range(len(tasks) + 1), [*map(_broken, tasks), "average"], fontsize=8)
        axis, (whole, label) = next(rows), _average(found, tasks, backbone)
        numbers = [_first(found, task, backbone) for task in tasks]
        groups = [found[i].modes(task, backbone) for i, task in zip(numbers, tasks, strict=True)]
        _groups(axis, [*groups, *[whole.results] * whole.complete])
        seen = dict.fromkeys(found[i].protocol["observation"] for i in numbers)
        axis.set_title(f"ours, {backbone}, on {' and '.join(f'{name}s' for name in seen)}", fontsize=10)
        marks = [
            f"\n({i + 1})" * (len(found) > 1 and any(group.values())) for i, group in zip(numbers, groups, strict=True)
        ]
        names = [_broken(task) + mark for task, mark in zip(tasks, marks, strict=True)] + [label]
        axis.set_xticks(range(len(names)), names, fontsize=8)
    for axis in axes[:, 0]:
        axis.set_xlim(-0.6, len(tasks) + 0.6)
        axis.axvline(len(tasks) - 0.5, color="#dee2e6", lw=1)
        axis.set_ylabel("success rate")
    _finish(figure, path)


def _average(found: Sequence[Table], tasks: Sequence[str], backbone: str) -> tuple[Average, str]:
    """Return the first average of our tables that has all tasks in every mode, or else that which lacks least.

    Its label says of how many episodes it is or which tasks are missing, and in which tables if there are several.
    """
    of = [(average(group, backbone, tasks), group) for group in alike(found)]
    whole, group = min(of, key=lambda one: (not one[0].complete, len(one[0].lacking)))
    where = ", ".join(f"({i})" for i, table in enumerate(found, 1) if table in group) if len(found) > 1 else ""
    if whole.complete:
        lines = ["average,", f"{whole.episodes} episodes", "of each task", where]
    elif whole.lacking:
        lines = ["no average,", f"not run in {where}:" if where else "not run:", *whole.lacking]
    else:
        lines = ["no average,", "no training seed", "in common"]
    return whole, "\n".join(filter(None, lines))


def _first(found: Sequence[Table], task: str, backbone: str) -> int:
    """Return the index of the first table that has any results of a task, 0 if there is no such table."""
    return next((i for i, table in enumerate(found) if any(table.modes(task, backbone).values())), 0)


def _backbones(table: Table) -> list[str]:
    """Return the backbones of a table, those of the paper first."""
    return sorted({key.backbone for key in table.cells}, key=lambda name: (name not in paper.NAMES, name))


def _subplots(rows: int, columns: int, **options: Any) -> Any:
    require("matplotlib", "train").use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, layout="constrained", sharey=True, squeeze=False, **options)


def _groups(axis, groups: Sequence[Mapping[str, list[Result]]]) -> None:
    """Draw each group of results by mode: one bar for each mode, with its 95 % interval over episodes."""
    for i, group in enumerate(groups):
        for mode, results in group.items():
            _bar(axis, i + AT[mode], mode, results)
    axis.set_xlim(-0.6, len(groups) - 0.4)


def _bar(axis, at: float, mode: str, results: list[Result]) -> None:
    """Draw one rate with its interval, or the words that there is none."""
    if not results:
        axis.text(at, 0.02, "not run", rotation=90, ha="center", fontsize=7, color="#6c757d")
        return
    found = rate(results)
    rate_bar(axis, at, mode, found.successes, found.episodes)


def rate_bar(axis, at: float, mode: str, successes: int, episodes: int) -> None:
    """Draw a success rate of ours with its 95 % interval over episodes."""
    value, error = error_bars(successes, episodes)
    axis.bar(at, value, WIDTH, yerr=error, color=COLOURS[mode], capsize=3, error_kw={"lw": 1})


def _paper(axis, at: int, family: str, backbone: str, column: int) -> None:
    """Draw a column of the paper's Table II, hatched, with the standard deviation over its training seeds."""
    for mode in ALL_MODES:
        if values := paper.TABLE_2[family].get((backbone, mode)):
            paper_bar(axis, at + AT[mode], mode, values[column], WIDTH)


def paper_bar(axis, at: float, mode: str, value: paper.Value, width: float) -> None:
    """Draw a success rate of the paper in %, hatched, with its standard deviation over training seeds."""
    mean, std = value
    axis.bar(at, mean / 100, width, yerr=std / 100, color=COLOURS[mode], hatch="//", edgecolor="white")


def _tasks(pooled: Mapping[str, list[Result]]) -> str:
    count = len({result.run.task for results in pooled.values() for result in results})
    return f"{count} task{'s' * (count != 1)}"


def _broken(task: str) -> str:
    """Return the name of a task of the paper over several lines."""
    return task.replace("_", "\n")


def _finish(figure, path: Path) -> None:
    """Add the legend, and save."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    for axis in figure.axes:
        axis.set(ylim=(0, 1.03))
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=COLOURS[mode]) for mode in ALL_MODES]
    figure.legend(handles, ALL_MODES, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
