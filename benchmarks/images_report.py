"""Conclusions, tables and figures of the study of images and of MimicGen from images, from the finished cells.

uv run benchmarks/images_report.py    # fills cached-images.md and mimicgen.md of docs/results; draws their figures
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from action_heads_lab.sim.interval import error_bars, interval_text
from action_heads_lab.sim.report import COLOURS
from common import DOCS, fill, made_text, row_of, table
from comparisons import NAMES, OTHERS, by_chance, listed
from images import CELLS, MIMICGEN, TASKS, Cell, finished
from images_answers import SMALL, Row, answer, compared, conclusion, is_paired, pairs, success, tried, variant, with_p

MODES = ("decoupled", "random-frozen", "normal", "blind")
DRAWN = {"Lift": 25}  # demonstrations of the figure over parameters, 50 on other tasks


def draw(name: str, rows: list[Row], over: str, label: str) -> bool:
    """Draw success with 95 % intervals over one column, with a panel for each task, if it takes two values."""
    if len({row[over] for row in rows}) < 2:
        return False
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(3.4 * len(tasks) + 0.6, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, task in zip(axes[0], tasks, strict=True):
        for mode in MODES:
            points = sorted((row for row in rows if (row["task"], row["mode"]) == (task, mode)), key=lambda r: r[over])
            if not points:
                continue
            x = [row[over] for row in points]
            rates, errors = zip(*(error_bars(row["successes"], row["episodes"]) for row in points), strict=True)
            style = {"marker": "o", "capsize": 3, "color": COLOURS[mode], "label": NAMES.get(mode, mode)}
            ax.errorbar(x, rates, np.hstack(errors), **style)
        of_task = [row for row in rows if row["task"] == task]
        demos = {row["demos"] for row in of_task}
        title = task if over == "demos" else f"{task}, {listed(sorted(map(str, demos)))} demonstrations"
        ax.set(title=title, xscale="log", ylim=(-0.03, 1.03), xlabel=label)
        ax.minorticks_off()
        if over == "demos":
            ax.set_xticks(sorted(demos), list(map(str, sorted(demos))))
        else:
            low, high = (end(math.log10(row[over]) for row in of_task) for end in (min, max))
            ax.set_xlim(10 ** (low - 0.3), 10 ** (high + 0.3))
            ax.set_xticks([10.0**power for power in range(math.ceil(low - 0.3), math.floor(high + 0.3) + 1)])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("success, with 95 % intervals")
    handles = {name: h for ax in axes[0] for h, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(DOCS / f"{name}.png", dpi=120, bbox_inches="tight")  # A legend may be wider than one panel.
    plt.close(figure)
    return True


def line(row: Row) -> list[str]:
    """Return a row of the table."""
    through = {"code": "the code", "both": "both"}[row["through"]]
    return [
        row["task"],
        str(row["demos"]),
        f"{NAMES.get(row['mode'], row['mode'])}, through {through}{variant(row)}",
        str(row["steps"]),
        f"{row['trained']:,}",
        success(row),
        interval_text(*row["interval"]),
        f"{row['loss']:.4f}",
        f"{row['training_cpu_seconds']} s",
        f"{row['rollout_cpu_seconds']} s",
    ]


def comparisons(rows: list[Row]) -> str:
    """Return the table of decoupled beside its controls and normal training, with the p-value of each difference."""
    lines: dict[int, list[str]] = {}
    for ours, other in (found := pairs(rows)):
        start = [ours["task"], str(ours["demos"]), str(ours["steps"]), f"{ours['trained']:,}"]
        start.append(success(ours))
        line = lines.setdefault(id(ours), start + [""] * len(OTHERS))
        line[len(start) + list(OTHERS).index(other["mode"])] = with_p(ours, other)
    head = ["task", "demonstrations", "training steps", "trained", "decoupled", *OTHERS.values()]
    return f"{table(head, lines.values())}\n\n{by_chance(len(found))} {which_tests(found)}"


def which_tests(found: list[tuple[Row, Row]]) -> str:
    """Return which test gives the p-values of pairs of rows."""
    mcnemar, fisher = "McNemar's exact test on the same starts", "Fisher's exact test"
    number = sum(is_paired(*pair) for pair in found)
    if number == len(found):
        return f"Each p is that of {mcnemar}."
    if number == 0:
        return f"Each p is that of {fisher}."
    return (
        f"Where both rows hold the outcome of each start, p is that of {mcnemar} ({number} of {len(found)}); otherwise "
        f"that of {fisher}."
    )


def open_cells(rows: list[Row], tasks: Sequence[str]) -> str:
    """Return the planned cells of tasks that are not finished, with what the finished ones cost on average."""
    planned = [cell for cell in CELLS if cell.task in tasks]
    absent = [cell for cell in planned if row_of(rows, vars(cell)) is None]
    done = f"{len(planned) - len(absent)} of {len(planned)} planned cells are finished."
    if not absent:
        return done
    cost = ""
    if rows:
        training = sum(row["training_cpu_seconds"] for row in rows) / len(rows)
        rollout = sum(row["rollout_cpu_seconds"] for row in rows) / sum(row["episodes"] for row in rows)
        cost = f" A finished one took {training:.0f} s of one core to train, and {rollout:.1f} s for each episode."
    head = ["task", "demonstrations", "training steps", "systems"]
    return f"{done}{cost} These are open:\n\n{table(head, grouped(absent), 4)}"


def grouped(cells: list[Cell]) -> list[list[str]]:
    """Return the rows of a table of cells, one for each task and numbers of demonstrations and training steps."""
    groups: dict[tuple[str, int, int], list[str]] = {}
    for cell in cells:
        name = NAMES.get(cell.mode, cell.mode) + (f", {cell.hidden} hidden units" if cell.hidden else "")
        groups.setdefault((cell.task, cell.demos, cell.steps), []).append(name + variant(vars(cell)))
    return [[task, str(demos), str(steps), "; ".join(names)] for (task, demos, steps), names in groups.items()]


HEAD = ["task", "demonstrations", "system", "steps", "trained", "success", "95 % interval", "loss"]
HEAD += ["training", "rollouts"]


def main() -> None:
    rows = finished()
    study([row for row in rows if row["task"] in TASKS])
    mimicgen([row for row in rows if row["task"] in MIMICGEN])


def study(rows: list[Row]) -> None:
    """Fill the page of the study, and draw its figures."""
    rows.sort(key=lambda r: (TASKS.index(r["task"]), -r["demos"], r["steps"], MODES.index(r["mode"]), r["trained"]))
    usual = [row for row in rows if row["steps"] == Cell.steps and not variant(row)]
    small = [row for row in usual if row["mode"] == "normal" or row["hidden"] == SMALL]
    figures = {
        "parameters": (
            [row for row in usual if row["demos"] == DRAWN.get(row["task"], 50)],
            "trained",
            "trained parameters",
        ),
        "demonstrations": (small, "demos", "the number of demonstrations"),
    }
    drawn = [
        f"![Success over {label}](images-{name}.png)\n\n"
        for name, (chosen, over, label) in figures.items()
        if draw(f"images-{name}", chosen, over, label)
    ]
    results = "".join(drawn) + table(HEAD, map(line, rows))
    parts = {
        "conclusion": conclusion(rows),
        "answer": answer(rows),
        "tried": tried(rows),
        "comparisons": comparisons(rows),
        "results": results,
        "open": open_cells(rows, TASKS),
        "made": made_text("images", rows),
    }
    fill(DOCS / "cached-images.md", parts)


def mimicgen(rows: list[Row]) -> None:
    """Fill the part on images of MimicGen's page."""
    rows.sort(key=lambda row: (MIMICGEN.index(row["task"]), row["demos"], MODES.index(row["mode"])))
    part = f"{table(HEAD, map(line, rows))}\n\n{open_cells(rows, MIMICGEN)}"
    tests = "No control is finished, so nothing is compared."
    if found := compared(rows):
        tests = "\n".join(f"- {text}" for text in found) + f"\n\n{comparisons(rows)}"
    fill(DOCS / "mimicgen.md", {"images": part, "image-comparisons": tests})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
