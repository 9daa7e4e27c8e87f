"""The paper's question on its two benchmarks in one figure: is a frozen head as good as normal training?

    uv run benchmarks/paper_question.py    # runs nothing; fills docs/results/index.md and draws its figure

A system is drawn if its modes were run on equal tasks: from states all tasks of a benchmark, from images all suites of
LIBERO and each task of MimicGen that is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import images
import libero_cells
import libero_images_report as libero
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.reproduce import paper
from action_heads_lab.reproduce.averages import alike, average
from action_heads_lab.reproduce.cells import tables
from action_heads_lab.reproduce.config import ALL_MODES
from action_heads_lab.reproduce.families import FAMILIES
from action_heads_lab.reproduce.figure import AT, WIDTH, paper_bar, rate_bar
from action_heads_lab.reproduce.results import load_all
from action_heads_lab.reproduce.statistics import rate
from action_heads_lab.sim.interval import success_text
from action_heads_lab.sim.report import COLOURS
from common import DOCS, command_line, fill, read_results, row_of, table
from matplotlib.patches import Patch

RESULTS = Path(__file__).parents[1] / "results"
TITLES = {"libero": "LIBERO", "mimicgen": "MimicGen"}
PAGES = {
    ("libero", "images"): "libero-images.md",
    ("libero", "states"): "libero.md",
    ("mimicgen", "images"): "mimicgen.md#from-images",
    ("mimicgen", "states"): "mimicgen.md",
}
ABOUT = (
    "Hatched: the paper's DP-MLP on images, mean and deviation of three training seeds.\n"
    "Plain: ours, one training seed, 95 % intervals over episodes. Far fewer demonstrations, by scripted experts,\n"
    "and shorter training, so compare the modes of one group."
)


class System(NamedTuple):
    """A system of ours on a benchmark: successes and episodes by mode, over equal tasks."""

    family: str
    observation: str
    backbone: str
    tasks: int
    counts: Mapping[str, tuple[int, int]]


def from_states(family: str) -> list[System]:
    """Return the systems from states that were run on all tasks of a benchmark in every mode."""
    tasks, found = list(paper.TASKS[family]), []
    groups = alike(tables(load_all(RESULTS / family)))
    for backbone in ("mlp", "mixer", "unet", "transformer"):
        whole = next((a for group in groups if (a := average(group, backbone, tasks)).complete), None)
        if whole:
            rates = {mode: rate(results) for mode, results in whole.results.items()}
            counts = {mode: (each.successes, each.episodes) for mode, each in rates.items()}
            found.append(System(family, "states", backbone, len(tasks), counts))
    return found


def libero_from_images() -> list[System]:
    """Return the system on LIBERO from images, if all suites have it in every mode."""
    rows = libero.whole(read_results(libero.NAME, []))
    of_mode = libero.on_all_suites(rows, [libero_cells.Cell("", mode) for mode in ALL_MODES])
    counts = {mode: libero.pooled(each) for mode, each in of_mode.items()}
    whole = counts.keys() == set(ALL_MODES)
    return [System("libero", "images", "mixer", len(libero_cells.SUITES), counts)] if whole else []


def mimicgen_from_images() -> list[System]:
    """Return the system on the tasks of MimicGen from images that have every mode, with most demonstrations of each.

    All modes of a task count on as many starts, the first ones.
    """
    rows, tasks = images.finished(), 0
    counts: dict[str, tuple[int, int]] = dict.fromkeys(ALL_MODES, (0, 0))
    for task in images.MIMICGEN:
        demos = max(cell.demos for cell in images.CELLS if cell.task == task)
        cells = {cell.mode: cell for cell in images.mimicgen(task, demos)}
        found = {mode: row for mode in ALL_MODES if (row := row_of(rows, vars(cells[mode])))}
        if len(found) == len(ALL_MODES):
            tasks, number = tasks + 1, min(len(row["outcomes"]) for row in found.values())
            for mode, row in found.items():
                won, of = counts[mode]
                counts[mode] = (won + sum(row["outcomes"][:number]), of + number)
    return [System("mimicgen", "images", "mixer", tasks, counts)] if tasks else []


def systems() -> list[System]:
    """Return all systems, those from images first."""
    found = [*libero_from_images(), *mimicgen_from_images()]
    return [*found, *(system for family in TITLES for system in from_states(family))]


def results_table(found: list[System]) -> str:
    """Return the paper's averages and the rates of systems by mode, each with a link to its page."""
    lines = []
    for family, title in TITLES.items():
        theirs = [f"{paper.PRINTED[family]['mlp', mode].split()[-1]} %" for mode in ("decoupled", "normal")]
        lines.append([title, "the paper: images, `mlp`", f"{len(paper.TASKS[family])}", *theirs, ""])
        for system in (each for each in found if each.family == family):
            page = PAGES[family, system.observation]
            name = f"[ours: {system.observation}, `{system.backbone}`]({page})"
            rates = [success_text(*system.counts[mode]) for mode in ALL_MODES]
            lines.append([title, name, str(system.tasks), *rates])
    return table(["benchmark", "system", "suites or tasks", *ALL_MODES], lines, 2)


def tasks_text(family: str, count: int) -> str:
    """Return a number of LIBERO's suites or of MimicGen's tasks."""
    return f"{count} {FAMILIES[family].unit}{'s' * (count != 1)}"


def draw(found: list[System]) -> None:
    """Draw the paper's averages and those of systems, one panel for each benchmark."""
    groups = {family: [system for system in found if system.family == family] for family in TITLES}
    ratios = [len(group) + 1 for group in groups.values()]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.9), sharey=True, layout="constrained", width_ratios=ratios)
    for axis, (family, group) in zip(axes, groups.items(), strict=True):
        for mode in ("decoupled", "normal"):
            paper_bar(axis, AT[mode], mode, paper.TABLE_2[family]["mlp", mode][-1], WIDTH)
        for i, system in enumerate(group, 1):
            for mode in ALL_MODES:
                rate_bar(axis, i + AT[mode], mode, *system.counts[mode])
        names = [f"ours, {s.observation}\n{s.backbone}, {tasks_text(family, s.tasks)}" for s in group]
        theirs = f"the paper, images\nmlp, {tasks_text(family, len(paper.TASKS[family]))}"
        axis.set_xticks(range(len(group) + 1), [theirs, *names])
        axis.tick_params(axis="x", labelsize=8)
        axis.set(ylim=(0, 1.03), xlim=(-0.6, len(group) + 0.6))
        axis.set_title(TITLES[family], fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("success rate")
    figure.suptitle(ABOUT, fontsize=8, ha="left", x=0.01)
    handles = [Patch(color=COLOURS[mode]) for mode in ALL_MODES]
    figure.legend(handles, ALL_MODES, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(DOCS / "paper-question.png", dpi=120)
    plt.close(figure)


def main() -> None:
    command_line(__doc__).parse_args()
    found = systems()
    fill(DOCS / "index.md", {"paper-question": results_table(found)})
    draw(found)


if __name__ == "__main__":
    main()
