"""Conclusions, tables and figures of the study of images and of MimicGen from images, from the finished cells.

uv run benchmarks/images_report.py    # fills cached-images.md and mimicgen.md of docs/results; draws their figures
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from action_heads_lab.reproduce.statistics import Paired, counted, unpaired_p
from action_heads_lab.sim.interval import error_bars, interval_text
from action_heads_lab.sim.report import COLOURS
from common import DOCS, fill, made_text, row_of, table
from comparisons import NAMES, OTHERS, Comparison, by_chance, listed, told_apart
from images import CELLS, MIMICGEN, TASKS, Cell, finished

Row = dict[str, Any]
MODES = ("decoupled", "random-frozen", "normal", "blind")
SMALL = 128  # hidden units of the adapter in the conclusions and in the figure over demonstrations
DRAWN = {"Lift": 25}  # demonstrations of the figure over parameters, 50 on other tasks
# The aims of the study: tasks, demonstrations and trained parameters.
AIM, FEW, LIGHT = 3, 25, 100_000


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


def variant(settings: Mapping[str, Any]) -> str:
    """Return how a row or a cell differs from the usual ones, for its name."""
    parts = ["a code for each time step"] * settings["per_step"]
    parts += [f"{settings['denoising']} denoising steps"] * (settings["denoising"] != Cell.denoising)
    return "".join(f", {part}" for part in parts)


def line(row: Row) -> list[str]:
    """Return a row of the table."""
    through = {"code": "the code", "both": "both"}[row["through"]]
    return [
        row["task"],
        str(row["demos"]),
        f"{NAMES.get(row['mode'], row['mode'])}, through {through}{variant(row)}",
        str(row["steps"]),
        f"{row['trained']:,}",
        f"{row['successes']} of {row['episodes']}",
        interval_text(*row["interval"]),
        f"{row['loss']:.4f}",
        f"{row['training_cpu_seconds']} s",
        f"{row['rollout_cpu_seconds']} s",
    ]


def answer(rows: list[Row]) -> str:
    """Return the lines of the answer: the aims, then the adapter of `SMALL` beside the others, and larger adapters.

    All but the aims are of the usual recipe.
    """
    usual = [pair for pair in pairs(rows) if pair[0]["steps"] == Cell.steps and not variant(pair[0])]
    small = [pair for pair in usual if pair[0]["hidden"] == SMALL]
    if not small:
        return "No cell of this study is finished."
    large = [pair for pair in usual if pair[0]["hidden"] > SMALL]
    lines = [
        (f"With {trained(small)} trained parameters, decoupled", [x for x in small if x[1]["mode"] != "normal"]),
        ("It", [x for x in small if x[1]["mode"] == "normal"]),
        (f"With {trained(large)}, decoupled", large),
    ]
    found = [told_apart(first, [tested(*x) for x in each]) for first, each in lines if each]
    return "\n".join(f"- {text}" for text in [*aims(rows), *found, "Numbers of demonstrations are in brackets."])


def aims(rows: list[Row]) -> list[str]:
    """Return a sentence on each aim of the study that has rows, with what was reached."""
    few = [pair for pair in pairs(rows) if pair[1]["mode"] == "normal" and pair[0]["demos"] <= FEW]
    light = [pair for pair in pairs(rows) if pair[1]["mode"] == "random-frozen" and pair[0]["trained"] <= LIGHT]
    sentences = []
    if few:
        tasks = {ours["task"] for ours, other in few if is_better(ours, other)}
        sentences.append(
            f"The aim, decoupled better than normal training on {AIM} tasks from {FEW} demonstrations or fewer, is "
            f"{'met' if len(tasks) >= AIM else 'missed'}: it is better on {listed(sorted(tasks)) if tasks else 'none'}."
        )
    if light:
        better = sum(is_better(*pair) for pair in light)
        is_whole = {ours["task"] for ours, _ in light} == set(TASKS)
        state = "missed" if better < len(light) else "met" if is_whole else "open"
        sentences.append(
            f"The aim, decoupled better than random-frozen everywhere with at most {LIGHT:,} trained parameters, is "
            f"{state}: it is better in {better} of {len(light)} comparisons."
        )
    return sentences


def is_better(ours: Row, other: Row) -> bool:
    """Return whether a row has a higher rate than another one, at p < 0.05."""
    test = tested(ours, other)
    return test.is_apart and test.gain > 0


def trained(found: list[tuple[Row, Row]]) -> str:
    """Return the numbers of parameters that the first rows of pairs train."""
    return " or ".join(f"{size:,}" for size in sorted({ours["trained"] for ours, _ in found}))


def pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Return each row in the mode decoupled with those it is compared with: its controls, and normal training."""

    def belongs(ours: Row, row: Row) -> bool:
        is_control = row["mode"] in ("random-frozen", "blind") and row["trained"] == ours["trained"]
        is_alike = all(row[key] == ours[key] for key in ("task", "demos", "steps", "denoising"))
        return is_alike and (is_control or row["mode"] == "normal")

    return [(ours, row) for ours in rows if ours["mode"] == "decoupled" for row in rows if belongs(ours, row)]


def tested(ours: Row, other: Row) -> Comparison:
    """Return McNemar's exact test of two rows on the same starts, or Fisher's if one holds no outcomes of episodes."""
    first, second = [(row["successes"], row["episodes"]) for row in (ours, other)]
    gain = first[0] / first[1] - second[0] / second[1]
    if "outcomes" in ours and "outcomes" in other:
        p = Paired(((counted(list(zip(ours["outcomes"], other["outcomes"], strict=False))),),)).p
    else:
        p = unpaired_p(first, second)
    return Comparison(OTHERS[other["mode"]], ours["task"], str(ours["demos"]), gain, p)


def comparisons(rows: list[Row]) -> str:
    """Return the table of decoupled beside its controls and normal training, with the p-value of each difference."""
    lines: dict[int, list[str]] = {}
    for ours, other in (found := pairs(rows)):
        start = [ours["task"], str(ours["demos"]), str(ours["steps"]), f"{ours['trained']:,}"]
        start.append(f"{ours['successes']} of {ours['episodes']}")
        line = lines.setdefault(id(ours), start + [""] * len(OTHERS))
        cell = f"{other['successes']} of {other['episodes']} (p = {tested(ours, other).p:.2g})"
        line[len(start) + list(OTHERS).index(other["mode"])] = cell
    head = ["task", "demonstrations", "training steps", "trained", "decoupled", *OTHERS.values()]
    return f"{table(head, lines.values())}\n\n{by_chance(len(found))}"


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
        "answer": answer(rows),
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
    if pairs(rows):
        tests = f"{comparisons(rows)}\n\np is that of McNemar's exact test on the same starts."
    fill(DOCS / "mimicgen.md", {"images": part, "image-comparisons": tests})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
