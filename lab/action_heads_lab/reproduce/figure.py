"""Figure that compares decoupled, normal and random-frozen training, with the averages of the paper."""

from __future__ import annotations

import re
from pathlib import Path

from action_heads._util.extras import require
from action_heads_lab.reproduce import paper
from action_heads_lab.reproduce.cells import Table
from action_heads_lab.reproduce.config import ALL_MODES
from action_heads_lab.reproduce.results import Result
from action_heads_lab.reproduce.statistics import rate
from action_heads_lab.sim.interval import error_bars
from action_heads_lab.sim.report import COLOURS
from action_heads_lab.sim.tasks import TASKS

WIDTH = 0.26


def draw(table: Table, path: Path) -> None:
    """Draw one row per backbone: averages of the paper, ours over all tasks and by task, with 95 % intervals."""
    require("matplotlib", "train").use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    found = {key.backbone for key in table.cells}
    backbones = sorted(found, key=lambda backbone: (backbone not in paper.NAMES, backbone))  # those of the paper first
    figure, axes = plt.subplots(
        len(backbones),
        3,
        figsize=(13, 3 * len(backbones) + 0.6),
        width_ratios=[2, 1.2, 8],
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for (theirs, pooled, each), backbone in zip(axes, backbones, strict=True):
        tasks, whole = list(TASKS), table.complete(backbone)
        for mode, at in zip(ALL_MODES, (-WIDTH, 0, WIDTH), strict=True):
            results = [result for task in whole for result in table.cell(task, backbone, mode)]
            _bar(pooled, at, mode, results)
            for i, task in enumerate(tasks):
                _bar(each, i + at, mode, table.cell(task, backbone, mode))
                if not table.cell(task, backbone, mode):
                    each.text(i + at, 0.02, "not run", rotation=90, ha="center", fontsize=7, color="#6c757d")
        pooled.set_xticks([0], [f"{len(whole)} task{'s' * (len(whole) != 1)}"])
        pooled.set_title("ours, all tasks", fontsize=10)
        each.set_xticks(range(len(tasks)), [re.sub("(?<=[a-z])(?=[A-Z])", "\n", task) for task in tasks], fontsize=8)
        each.set_xlim(-0.6, len(tasks) - 0.4)
        each.set_title(f"ours, {backbone}, robosuite on {table.protocol['observation']}s", fontsize=10)
        left = theirs if backbone in paper.NAMES else pooled
        left.set_ylabel("success rate")
        left.tick_params(labelleft=True)
        if backbone in paper.NAMES:
            _paper(theirs, backbone)
        else:
            theirs.set_visible(False)
    for axis in axes.flat:
        axis.set(ylim=(0, 1.03))
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=COLOURS[mode]) for mode in ALL_MODES]
    figure.legend(handles, ALL_MODES, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bar(axis, at: float, mode: str, results: list[Result]) -> None:
    """Draw one rate with its interval, or nothing without results."""
    if not results:
        return
    found = rate(results)
    value, error = error_bars(found.successes, found.episodes)
    axis.bar(at, value, WIDTH, yerr=error, color=COLOURS[mode], capsize=3, error_kw={"lw": 1})


def _paper(axis, backbone: str) -> None:
    """Draw the averages of the paper for the same backbone, hatched. They are of other tasks, on images."""
    for i, family in enumerate(("mimicgen", "libero")):
        for mode, at in (("decoupled", -WIDTH), ("normal", 0.0)):
            if value := paper.TABLE_2[family].get((backbone, mode)):
                mean, std = value[-1]
                axis.bar(i + at, mean / 100, WIDTH, yerr=std / 100, color=COLOURS[mode], hatch="//", edgecolor="white")
    axis.set_xticks([0, 1], ["MimicGen", "LIBERO"])
    axis.set_xlim(-0.6, 1.6)
    axis.set_title(f"the paper's {paper.NAMES[backbone]}", fontsize=10)
