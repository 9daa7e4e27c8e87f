"""Make tables and figures of the finished cells of the Stage 2 benchmark.

uv run benchmarks/stage2_report.py    # fills docs/results/all-tables.md; draws stage2-*.png beside it
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from action_heads_lab.sim.interval import error_bars, wilson
from action_heads_lab.sim.report import COLOURS
from common import DOCS, fill, read_results, table, write_results
from stage2 import OUT, path_of
from stage2_studies import HEADS, STUDIES, Cell

MODE_COLOURS = COLOURS | {"random-frozen-paper": "#9e2a2b"}
LEVEL = 0.1  # A value of the training loss.
Row = tuple[Cell, dict]

QUESTIONS = {
    "universal": "One head for all adapters, or one for each",
    "prediction": "Prediction target",
    "signal": "Condition of Stage 1",
    "data": "Synthetic motion, recorded motion, both",
    "size": "Size of the head",
    "mixer": "`mlp` or `mixer`",
    "stack": "Success on Stack",
    "per_step": "A code for every time step of a chunk",
    "levels": "Noise levels and noise samples in training",
    "backbones": "Backbones with FiLM, frozen as in the paper",
}


@cache
def records() -> dict[str, dict]:
    """Return every finished cell by the name of its file: those in git, overridden by those of this machine."""
    saved = read_results("stage2")
    known = {path_of(Cell(**r["cell"])).name: r for r in saved if HEADS.get(r["cell"]["head"]) == as_built(r["stage1"])}
    here = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (OUT / "cells").glob("*.json")}
    return known | here


def as_built(stage1: dict) -> dict:
    """Return the settings of a head with tuples in place of JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stage1.items()}


def finished(study: str) -> list[Row]:
    names = [(cell, path_of(cell).name) for cell in STUDIES[study]]
    return [(cell, records()[name]["result"]) for cell, name in names if name in records()]


def spread(values: list[float], digits: int) -> str:
    """Return the mean over seeds, with half the range of two seeds."""
    if not values:
        return ""
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def label(cell: Cell) -> str:
    """Return the name of a system: all that distinguishes it from its neighbours in a table, except size and data."""
    through = {"code": "the code", "blocks": "the blocks", "both": "both"}[cell.through]
    mode = cell.mode.replace("-paper", " as the paper initialises it")
    if cell.mode == "normal":
        return "normal" + ("" if cell.lr == Cell.lr else f", lr {cell.lr:g}")
    words = f"{mode}, through {through}"
    words += ", its own modulation trained" if cell.relearn_step else ""
    words += ", a code for each step" if cell.per_step else ""
    words += "" if cell.levels == "uniform" else f", levels {cell.levels}"
    words += "" if cell.noise_samples == 1 else f", {cell.noise_samples} noise samples"
    return words + ("" if cell.lr == Cell.lr else f", lr {cell.lr:g}")


def error_table(rows: list[Row], with_loss: bool = True) -> str:
    """Return a row for each head and system, with the denoising loss and the position error in mm on each task.

    Losses of heads with different prediction targets are not comparable, so that a table of those has none.
    """
    groups: dict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for cell, result in rows:
        groups[cell.head, cell.adapter, label(cell), cell.hidden, cell.width][cell.task].append(result)
    tasks = list(dict.fromkeys(cell.task for cell, _ in rows))
    columns = [("loss", "loss", 4)] * with_loss + [("mm at 10 steps", "mm_10", 1), ("mm at 1 step", "mm_1", 1)]
    names = [f"{task}, {name}" for task in tasks for name, _, _ in columns]
    lines = []
    for (head, adapter, system, *_), by_task in groups.items():
        trained = next(iter(by_task.values()))[0]["trainable"]
        cells = [spread([r[key] for r in by_task[t]], digits) for t in tasks for _, key, digits in columns]
        lines.append([head, f"`{adapter}`", system, f"{trained:,}", *cells])
    return table(["head", "adapter", "system", "trained parameters", *names], lines, left=3)


def steps_to(level: float, cell: Cell, curve: list[float]) -> str:
    """Return the training steps until the loss, averaged over a twentieth of the run, falls below a level."""
    means = np.convolve(curve, np.ones(5) / 5, "valid")
    below = np.flatnonzero(means < level)
    return str(round((below[0] + 5) * cell.steps / len(curve))) if len(below) else "never"


def success_table(rows: list[Row]) -> str:
    header = ["head", "system", "seed", "demonstrations", "trained", "success", "95 % interval", "mm"]
    lines = []
    for cell, result in rows:
        low, high = wilson(result["successes"], cell.episodes)
        system = (cell.head, label(cell), str(cell.seed), str(cell.demos), f"{result['trainable']:,}")
        outcome = (f"{result['successes']} of {cell.episodes}", f"{low:.0%} to {high:.0%}", f"{result['mm_10']:.1f}")
        lines.append([*system, *outcome, steps_to(LEVEL, cell, result["curve"])])
    return table([*header, f"training steps to loss {LEVEL}"], lines, left=2)


def draw(rows: list[Row], x: Callable[[Cell, dict], float], xlabel: str, path: Path) -> None:
    """Draw success with intervals over `x`, a line for each system, at the best of the learning rates."""
    lines: dict[str, dict[float, tuple[float, list[list[float]]]]] = defaultdict(dict)  # rate and error bars, by x
    style = {}
    for cell, result in rows:
        name, at = label(replace(cell, lr=Cell.lr)), x(cell, result)
        lines[name][at] = max(lines[name].get(at, (0.0, [])), error_bars(result["successes"], cell.episodes))
        dash = ":" if cell.relearn_step else {"code": "-", "blocks": "--", "both": "-."}[cell.through]
        style[name] = {"color": MODE_COLOURS[cell.mode], "linestyle": "-" if cell.mode == "normal" else dash}
    figure, axes = plt.subplots(figsize=(8, 5.4), layout="constrained")
    for i, (name, points) in enumerate(lines.items()):
        xs = [at * (1 + 0.015 * (i - len(lines) / 2)) for at in sorted(points)]  # Intervals are drawn side by side.
        rates, errors = zip(*(points[at] for at in sorted(points)), strict=True)
        axes.errorbar(xs, rates, np.hstack(errors), marker="o", capsize=2, markersize=4, label=name, **style[name])
    axes.set(xscale="log", ylim=(-0.02, 1.02), xlabel=xlabel)
    axes.set_ylabel(f"success on {rows[0][0].task}, {rows[0][0].episodes} episodes")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parts = []
    for study, question in QUESTIONS.items():
        if rows := finished(study):
            missing = len(STUDIES[study]) - len(rows)
            note = f"\n{missing} more cells of this study have not been run.\n" if missing else ""
            closed = [row for row in rows if row[0].episodes]
            tables = [
                error_table(part, study != "prediction") for part in [[r for r in rows if r not in closed]] if part
            ]
            tables += [success_table(closed)] if closed else []
            parts.append(f"### {question}\n\n" + "\n\n".join(tables) + f"\n{note}")
    if adapter := finished("adapter"):
        draw(adapter, lambda cell, r: r["trainable"], "trained parameters", DOCS / "stage2-adapter.png")
        parts.append(f"### The number of trained parameters\n\n{success_table(adapter)}\n")
    demos = finished("demonstrations")
    if len(demos) == len(STUDIES["demonstrations"]):  # Some of its cells belong to the other study.
        draw(demos, lambda cell, r: cell.demos, "demonstrations", DOCS / "stage2-demonstrations.png")
        parts.append(f"### The number of demonstrations\n\n{success_table(demos)}\n")
    fill(DOCS / "all-tables.md", {"stage2": "\n".join(parts)})
    names = [path_of(cell).name for cell in STUDIES["all"]]
    write_results("stage2", [records()[name] for name in names if name in records()])
    print("\n".join(parts))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
